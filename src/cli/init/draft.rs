//! The text of a recipe to start from.

use anyhow::{Result, ensure};

use super::guess::quoted;
use crate::data::{BYTES_A_TOKEN, Glance, Kind};
use crate::source::Source;

/// What the model has to stay good at.
pub struct Task {
    /// As a recipe names it.
    pub dataset: String,
    /// The split that is judged by, where it has to be named.
    pub split: Option<String>,
    /// Whether it is the user's, and stands for nothing else.
    pub is_own: bool,
    pub glance: Glance,
    /// What to calibrate on of the same kind, as a recipe names it, and what is known of it.
    pub calibration: Option<(String, Option<Glance>)>,
}

/// All that a recipe is made of.
pub struct Draft<'a> {
    pub name: &'a str,
    pub model: &'a Source,
    /// Tokens that the model sees, where that is known.
    pub context: Option<usize>,
    pub task: &'a Task,
}

/// Windows that are asked for where there is text enough, and their tokens: two minutes of a small model on two cores.
const WINDOWS: usize = 16;
const LENGTHS: [usize; 4] = [128, 64, 32, 16];

/// Windows that are better than fewer but longer ones.
const FEW: usize = 4;

/// Rows that are judged by, where there are more: of answers, which are generated, and of choices.
const ANSWERS: usize = 100;
const CHOICES: usize = 200;

/// Bytes of an answer that is short: a word or a few, which stand in what is generated or do not.
const SHORT: usize = 60;

/// Windows of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Windows {
    count: usize,
    length: usize,
}

impl Windows {
    /// As many as texts of so many bytes surely have, for a model that sees so many tokens.
    fn of(bytes: usize, context: Option<usize>) -> Option<Self> {
        // Where tokens are longer than usual, a half more.
        let tokens = bytes * 2 / (BYTES_A_TOKEN * 3);
        let fitting = LENGTHS.into_iter().filter(|&length| context.is_none_or(|context| length <= context));
        let mut windows = fitting.map(|length| Self { count: (tokens / length).min(WINDOWS), length });
        let shortest = windows.clone().next_back().filter(|windows| windows.count > 0);
        windows.find(|windows| windows.count >= FEW).or(shortest)
    }

    fn lines(self) -> String {
        format!("windows = {}\nlength = {}\n", self.count, self.length)
    }
}

impl Draft<'_> {
    /// # Errors
    /// Where a file has too little text to cut one window from.
    pub fn text(&self) -> Result<String> {
        let Self { name, model, context, task } = self;
        // A text that is longer than any: what is not here is known from its names.
        let enough = WINDOWS * LENGTHS[0] * BYTES_A_TOKEN * 2;
        let bytes = match &task.calibration {
            Some((_, Some(glance))) => glance.bytes,
            _ => enough,
        };
        let windows = Windows::of(bytes, *context);
        ensure!(windows.is_some(), "{bytes} bytes of text are too few to calibrate on; give more rows");
        let windows = windows.unwrap_or(Windows { count: 1, length: LENGTHS[3] });
        let general = Windows::of(enough, *context).unwrap_or(windows);
        let mut text = format!(
            "# A recipe to start from, written by `calipr init`: which pruning keeps the model good at the task?\n\
             # `calipr plan` checks it, `calipr run` runs it; lines that say \"yours\" are the ones to change first. All keys:\n\
             # docs/recipe.md, or `calipr schema > recipe.schema.json` with a first line `#:schema recipe.schema.json` for editors.\n\
             name = {}\n\n\
             [model]\n\
             # Yours: \"hf:OWNER/NAME\", \"path:DIR\" with safetensors, or \"path:FILE.gguf\".\n\
             source = {}\n\
             # dtype = \"bf16\" # half the memory; faster where the processor computes in it\n\n",
            quoted(name),
            quoted(&model.to_string())
        );
        text += &format!(
            "# What models are usually calibrated on, to compare with: here passages that come with calipr. The papers take\n\
             # dataset = \"c4\" with 128 windows of 2048 tokens and packing = \"crop\".\n\
             [calibration.general]\ndataset = \"prose\"\n{}\n",
            windows.lines()
        );
        text += &self.calibration(windows);
        text += "[grid]\n\
                 method = [\"magnitude\", \"wanda\", \"sparsegpt\"]\n\
                 sparsity = [0.5] # also more of them: [0.4, 0.5, \"2:4\"]\n\
                 # seed = [0, 1, 2] # several draws of the windows, which are averaged\n\n";
        text += &self.suite()?;
        text += &format!(
            "\n# What it costs elsewhere.\n[suite.general]\ndataset = \"prose\"\n{}metrics = [\"perplexity\", \"js_divergence\"]\n",
            general.lines()
        );
        Ok(text)
    }

    fn calibration(&self, windows: Windows) -> String {
        match &self.task.calibration {
            Some((dataset, _)) => {
                let what = match self.task.is_own {
                    true => "The task's own kind of text, as many tokens of it. None of these rows is judged by.",
                    false => "Yours: \"path:my_task.jsonl\".",
                };
                let split = match dataset == &self.task.dataset {
                    true => "# split = \"train\", the default\n",
                    false => "",
                };
                format!("# {what}\n[calibration.task]\ndataset = {}\n{split}{}\n", quoted(dataset), windows.lines())
            }
            None => "# Does it help to calibrate on the task? Yours: rows of the same kind, none of which is in the suite below.\n\
                     # [calibration.task]\n\
                     # dataset = \"path:my_task_train.jsonl\"\n\
                     # windows = 16\n\
                     # length = 128\n\n"
                .into(),
        }
    }

    /// What cells are judged by: the task.
    fn suite(&self) -> Result<String> {
        let Task { dataset, split, glance, is_own, .. } = self.task;
        let yours = if *is_own {
            ""
        } else {
            "# Yours: \"path:my_task_test.jsonl\", rows that are not among those of the calibration.\n"
        };
        let mut text = format!("{yours}[suite.task]\ndataset = {}\n", quoted(dataset));
        text += &split.as_ref().map_or(String::new(), |split| format!("split = {}\n", quoted(split)));
        let limit = |most: usize| match glance.rows > most {
            true => format!("limit = {most} # rows, from the first; all {} without this line\n", glance.rows),
            false => String::new(),
        };
        text += &match glance.kind {
            Kind::Choices => {
                limit(CHOICES)
                    + "metrics = [\"acc\", \"acc_norm\", \"js_divergence\"] # acc_norm: by the length of a choice\n\
                       # shots = 2 # solved rows in front of each\n"
            }
            Kind::Pairs | Kind::Conversations => limit(ANSWERS) + &self.answers(),
            Kind::Texts | Kind::Talk | Kind::Tokens => {
                let windows = Windows::of(glance.bytes, self.context);
                ensure!(windows.is_some(), "{} bytes of text are too few to judge by; give more rows", glance.bytes);
                let windows = windows.map_or(String::new(), Windows::lines);
                windows + "metrics = [\"perplexity\", \"js_divergence\"] # without `windows`, all of the text counts\n"
            }
        };
        Ok(text)
    }

    /// Keys of a suite whose answers are generated.
    fn answers(&self) -> String {
        let glance = &self.task.glance;
        // More tokens than the answers have, as a pruned model finds its words less well.
        let tokens = (glance.answer / 3 + 8).next_multiple_of(8).clamp(16, 256);
        let tokens = self.context.map_or(tokens, |context| tokens.min((context / 2).max(1)));
        let mut text = format!(
            "max_new_tokens = {tokens} # answers have about {} tokens\n",
            glance.answer.div_ceil(BYTES_A_TOKEN)
        );
        // In a conversation the model itself ends its turn.
        if !glance.has_lines && glance.kind == Kind::Pairs {
            text += "stop = [\"\\n\"] # answers end with their line\n";
        }
        text += match glance.answer <= SHORT {
            true => "metrics = [\"contains_answer\", \"f1\", \"js_divergence\"] # also exact_match\n",
            false => {
                "metrics = [\"rougeL\", \"f1\", \"js_divergence\"] # also contains_answer, for what has to stand in the answer\n"
            }
        };
        text + "# shots = 2 # solved rows in front of each\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_many_and_as_long_as_the_text_surely_has() {
        let of = |bytes, context| Windows::of(bytes, context).map(|w| (w.count, w.length));
        assert_eq!(of(1 << 20, None), Some((16, 128)));
        assert_eq!(of(1 << 20, Some(100)), Some((16, 64)));
        // 4000 bytes are 1000 tokens, or 666 long ones.
        assert_eq!(of(4000, None), Some((5, 128)));
        assert_eq!(of(1000, None), Some((5, 32)));
        assert_eq!(of(200, None), Some((2, 16)));
        assert_eq!(of(50, None), None);
    }
}
