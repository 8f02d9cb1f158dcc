//! What goes through a model for one sample, and what is read off its last hidden states.

use std::ops::Range;

use super::Windows;
use crate::model::Span;

/// A token to be predicted: the row of the passage whose hidden state predicts it, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub row: usize,
    pub id: u32,
}

/// The tokens of one sample: a window, or a prompt with one or more continuations that share it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passage {
    pub ids: Vec<u32>,
    /// How the tokens see each other, one span after the other.
    pub spans: Vec<Span>,
    /// Where the language metrics are taken: every token of a window but its first, or the target of a row.
    pub scored: Vec<Target>,
    /// The tokens of each choice.
    pub choices: Vec<Vec<Target>>,
}

impl Passage {
    /// A window, scored at every token that has one before it.
    pub fn window(ids: &[u32]) -> Self {
        let scored = ids.iter().skip(1).enumerate().map(|(row, &id)| Target { row, id }).collect();
        Self { ids: ids.to_vec(), spans: vec![Span::window(0..ids.len())], scored, choices: vec![] }
    }

    /// A prompt and one text after it, which is scored; of both together the last tokens that a context of `most` has
    /// room for.
    pub fn continued(prompt: &[u32], target: &[u32], most: usize) -> Self {
        let (ids, scored) = fitted(prompt, target, most);
        Self { spans: vec![Span::window(0..ids.len())], ids, scored, choices: vec![] }
    }

    /// A prompt and several texts after it that do not see each other; the one numbered `answer` is scored.
    ///
    /// They share the prompt's tokens where it fits into a context of `most` with each of them. Where it does not, each
    /// has of it what it has room for, as in lm-evaluation-harness, which scores one at a time.
    pub fn choices(prompt: &[u32], choices: &[&[u32]], answer: usize, most: usize) -> Self {
        let all_fit = choices.iter().all(|choice| prompt.len() + choice.len() <= most);
        let mut passage = match all_fit {
            true => Self::sharing(prompt, choices),
            false => Self::apart(&choices.iter().map(|choice| (prompt, *choice)).collect::<Vec<_>>(), most),
        };
        passage.scored = passage.choices[answer].clone();
        passage
    }

    fn sharing(prompt: &[u32], choices: &[&[u32]]) -> Self {
        let prefix = 0..prompt.len();
        let mut passage = Self { ids: prompt.to_vec(), spans: vec![Span::window(prefix.clone())], ..Self::default() };
        for choice in choices {
            let own = passage.ids.len()..passage.ids.len() + choice.len();
            // The prompt's last token predicts the first of the choice.
            let rows = std::iter::once(prefix.end - 1).chain(own.clone());
            passage.choices.push(rows.zip(*choice).map(|(row, &id)| Target { row, id }).collect());
            passage.ids.extend_from_slice(choice);
            passage.spans.push(Span { prefix: prefix.clone(), own });
        }
        passage
    }

    /// Several texts, each behind a prompt of its own; the one numbered `answer` is scored.
    pub fn pairs(pairs: &[(&[u32], &[u32])], answer: usize, most: usize) -> Self {
        let mut passage = Self::apart(pairs, most);
        passage.scored = passage.choices[answer].clone();
        passage
    }

    fn apart(pairs: &[(&[u32], &[u32])], most: usize) -> Self {
        let mut passage = Self::default();
        for (prompt, choice) in pairs {
            let (ids, scored) = fitted(prompt, choice, most);
            let start = passage.ids.len();
            passage.spans.push(Span::window(start..start + ids.len()));
            passage.choices.push(scored.into_iter().map(|t| Target { row: t.row + start, ..t }).collect());
            passage.ids.extend(ids);
        }
        passage
    }

    /// The longest run of positions that one of its tokens sees.
    pub fn longest(&self) -> usize {
        self.spans.iter().map(Span::seen).max().unwrap_or(0)
    }

    /// Its first tokens, `most` at most, which see what they see in the whole; none of them is scored.
    pub fn beginning(&self, most: usize) -> Self {
        let most = most.min(self.ids.len());
        let begun = self.spans.iter().filter(|span| span.own.start < most);
        let spans = begun.map(|s| Span { prefix: s.prefix.clone(), own: s.own.start..s.own.end.min(most) }).collect();
        Self { ids: self.ids[..most].to_vec(), spans, ..Self::default() }
    }

    /// The spans of this passage where its first token is row `at`.
    pub fn spans_at(&self, at: usize) -> impl Iterator<Item = Span> {
        let shift = move |r: &Range<usize>| r.start + at..r.end + at;
        self.spans.iter().map(move |s| Span { prefix: shift(&s.prefix), own: shift(&s.own) })
    }
}

/// Tokens of a prompt and what continues it, and where the latter is predicted. Of what is longer than `most` the
/// beginning is left out, and the last token, which predicts nothing (lm-evaluation-harness, models/huggingface.py:
/// `(context + continuation)[-(max_length + 1):][:-1]`).
fn fitted(prompt: &[u32], target: &[u32], most: usize) -> (Vec<u32>, Vec<Target>) {
    let whole = [prompt, target].concat();
    let kept = match whole.len() <= most {
        true => 0..whole.len(),
        false => whole.len() - 1 - most..whole.len() - 1,
    };
    let first = prompt.len() - 1 - kept.start;
    let scored = target.iter().zip(first..).map(|(&id, row)| Target { row, id }).collect();
    (whole[kept].to_vec(), scored)
}

impl Windows {
    /// A passage a window.
    pub fn passages(&self) -> Vec<Passage> {
        self.ranges().map(|range| Passage::window(&self.ids()[range])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(pairs: &[(usize, u32)]) -> Vec<Target> {
        pairs.iter().map(|&(row, id)| Target { row, id }).collect()
    }

    #[test]
    fn a_window_predicts_every_token_but_its_first() {
        assert_eq!(Passage::window(&[7, 8, 9]).scored, targets(&[(0, 8), (1, 9)]));
    }

    #[test]
    fn a_target_is_predicted_from_the_prompts_last_token_on() {
        let passage = Passage::continued(&[1, 2], &[3, 4], 4);
        assert_eq!((passage.ids, passage.scored), (vec![1, 2, 3, 4], targets(&[(1, 3), (2, 4)])));
    }

    #[test]
    fn choices_share_their_prompt_and_do_not_see_each_other() {
        let passage = Passage::choices(&[1, 2], &[&[3], &[4, 5]], 1, 4);
        assert_eq!(passage.ids, [1, 2, 3, 4, 5]);
        assert_eq!(passage.choices, [targets(&[(1, 3)]), targets(&[(1, 4), (3, 5)])]);
        assert_eq!(passage.scored, passage.choices[1]);
        let spans: Vec<Span> = passage.spans_at(10).collect();
        assert_eq!(spans[2], Span { prefix: 10..12, own: 13..15 });
        assert_eq!(passage.longest(), 4);
    }

    #[test]
    fn what_is_longer_than_the_context_loses_its_beginning_and_its_last_token() {
        let passage = Passage::continued(&[1, 2, 3], &[4, 5], 4);
        assert_eq!((passage.ids, passage.scored), (vec![1, 2, 3, 4], targets(&[(2, 4), (3, 5)])), "one token more");
        let passage = Passage::continued(&[1, 2, 3, 9], &[4, 5], 4);
        assert_eq!((passage.ids, passage.scored), (vec![2, 3, 9, 4], targets(&[(2, 4), (3, 5)])));
        let passage = Passage::continued(&[1, 2], &[3, 4, 5, 6], 4);
        assert_eq!((passage.ids, passage.scored), (vec![2, 3, 4, 5], targets(&[(0, 3), (1, 4), (2, 5), (3, 6)])));
    }

    #[test]
    fn choices_that_do_not_all_fit_have_each_the_prompt_that_they_have_room_for() {
        let passage = Passage::choices(&[1, 2, 3], &[&[7], &[8, 9]], 0, 4);
        assert_eq!(passage.ids, [1, 2, 3, 7, 1, 2, 3, 8]);
        assert_eq!(passage.choices, [targets(&[(2, 7)]), targets(&[(6, 8), (7, 9)])]);
        assert_eq!(passage.spans, [Span::window(0..4), Span::window(4..8)]);
        assert_eq!((passage.scored.clone(), passage.longest()), (passage.choices[0].clone(), 4));
    }

    #[test]
    fn what_follows_each_of_several_prompts_sees_its_own() {
        let passage = Passage::pairs(&[(&[1, 2], &[7, 8]), (&[3], &[7, 8])], 1, 9);
        assert_eq!(passage.ids, [1, 2, 7, 8, 3, 7, 8]);
        assert_eq!(passage.choices, [targets(&[(1, 7), (2, 8)]), targets(&[(4, 7), (5, 8)])]);
        assert_eq!((&passage.scored, passage.longest()), (&passage.choices[1], 4));
        assert_eq!(passage.spans, [Span::window(0..4), Span::window(4..7)]);
    }

    #[test]
    fn the_beginning_of_a_passage_sees_what_it_sees_in_the_whole() {
        let passage = Passage::choices(&[1, 2], &[&[7], &[8, 9]], 0, 9);
        let beginning = passage.beginning(4);
        assert_eq!(beginning.ids, [1, 2, 7, 8]);
        assert_eq!(beginning.spans[..2], passage.spans[..2]);
        assert_eq!(beginning.spans[2..], [Span { prefix: 0..2, own: 3..4 }]);
        assert_eq!(passage.beginning(2).spans, [Span::window(0..2)]);
        assert_eq!(passage.beginning(9).ids, passage.ids);
    }
}
