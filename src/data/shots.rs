//! Solved examples: which rows stand in front of the one that is asked, and what stands in front of all.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::Value;

use super::prompts::{contents, is_answered};
use super::{Content, Part, Row, Rows};

/// What of a row is neither asked nor answered.
#[derive(Debug, Default, Clone)]
pub struct About {
    /// What stands in front of what it asks.
    pub preamble: String,
    /// What it has in the field by which rows are alike.
    pub group: String,
}

/// What the first rows have beside what they ask.
///
/// # Errors
/// Where a row cannot be read, or lacks the field.
pub fn about(rows: &Rows, count: usize, part: &Part, alike: Option<&str>) -> Result<Vec<About>> {
    let count = count.min(rows.len());
    let templates = part.templates.as_ref().filter(|templates| templates.preamble.is_some());
    if templates.is_none() && alike.is_none() {
        return Ok(vec![About::default(); count]);
    }
    let of_chunk = |(start, chunk): (usize, Result<Vec<Row>>)| -> Result<(usize, Vec<About>)> {
        let chunk = chunk?;
        let preambles = match templates {
            Some(templates) => templates.preambles(&chunk)?,
            None => vec![String::new(); chunk.len()],
        };
        let group = |(i, row): (usize, &Row)| match alike {
            None => Ok(String::new()),
            Some(field) => row.get(field).map(Value::to_string).with_context(|| {
                format!("row {}: it has no `{field}`, by which solved examples are chosen", rows.number(start + i))
            }),
        };
        let groups = chunk.iter().enumerate().map(group).collect::<Result<Vec<_>>>()?;
        Ok((start, preambles.into_iter().zip(groups).map(|(preamble, group)| About { preamble, group }).collect()))
    };
    let mut chunks = rows.chunks(count).map(of_chunk).collect::<Result<Vec<_>>>()?;
    chunks.sort_by_key(|(start, _)| *start);
    Ok(chunks.into_iter().flat_map(|(_, about)| about).take(count).collect())
}

/// Rows that may stand as solved examples.
pub struct Shots {
    contents: Vec<Content>,
    /// The places of those that are alike.
    groups: HashMap<String, Vec<usize>>,
    alike: Option<String>,
    first: bool,
}

impl Shots {
    pub fn none() -> Self {
        Self { contents: vec![], groups: HashMap::new(), alike: None, first: false }
    }

    /// All rows of a part.
    ///
    /// # Errors
    /// Where one has no answer to show.
    pub fn of(rows: &Rows, part: &Part) -> Result<Self> {
        let contents = contents_of_shots(rows, part)?;
        let (alike, first) = (part.shown.alike.clone(), part.shown.first);
        let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, about) in about(rows, rows.len(), part, alike.as_deref()).context("the shots")?.into_iter().enumerate()
        {
            groups.entry(about.group).or_default().push(i);
        }
        Ok(Self { contents, groups, alike, first })
    }

    /// The field by which they are chosen.
    pub fn alike(&self) -> Option<&str> {
        self.alike.as_deref()
    }

    /// `count` solved examples for a row of a group, none of which asks what `content` asks: with the answer in front, the
    /// question is none.
    ///
    /// # Errors
    /// Where there are too few.
    pub fn before(&self, content: &Content, group: &str, count: usize, rng: &mut ChaCha8Rng) -> Result<Vec<&Content>> {
        let alike = self.groups.get(group).map_or(&[][..], Vec::as_slice);
        let (mut examples, mut seen) = (Vec::new(), HashSet::new());
        while examples.len() < count {
            ensure!(
                seen.len() < alike.len(),
                "too little data: shots = {count}, but only {} other rows{} ask something else; ask for fewer shots",
                examples.len(),
                self.alike.as_ref().map_or(String::new(), |field| format!(" of this `{field}`"))
            );
            let place = if self.first { seen.len() } else { rng.random_range(0..alike.len()) };
            let example = &self.contents[alike[place]];
            if seen.insert(place) && example.asks() != content.asks() {
                examples.push(example);
            }
        }
        Ok(examples)
    }
}

fn contents_of_shots(rows: &Rows, part: &Part) -> Result<Vec<Content>> {
    let contents = contents(rows, rows.len(), part).context("the shots")?;
    for (i, content) in contents.iter().enumerate() {
        ensure!(
            is_answered(content)?,
            "the shots: row {} has no answer to show; give the data set a template with a `target` for such rows, or ask \
             for no shots",
            rows.number(i)
        );
    }
    Ok(contents)
}
