//! What the judge is asked: templates, and the JSON that is wanted.

use anyhow::{Result, anyhow};
use minijinja::UndefinedBehavior;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::{Value, json};

use super::spec::{Criterion, JudgeSpec, syntax};
use crate::templates::{self, environment, in_time};

/// What is asked of a single answer, unless the recipe has a prompt.
const SCORE: &str = "\
You grade answers. Grade the answer to the task below{% if reference %}, against the reference answer{% endif %}.

Task:
{{ question }}
{% if reference %}
Reference answer:
{{ reference }}
{% endif %}
Answer to grade:
{{ answer }}

Give a whole number from 1 (worst) to 10 (best) for each of these:
{% for criterion in criteria %}- {{ criterion.name }}{% if criterion.meaning %}: {{ criterion.meaning }}{% endif %}
{% endfor %}
Reply with a JSON object and nothing else, with a number in place of each N: {{ example }}";

/// What is asked of two answers.
const PAIR: &str = "\
You compare answers. Say which of two answers to the task below is the better one{% if reference %}, by the reference \
answer{% endif %}. Which of them stands first does not count, nor which is longer.

Task:
{{ question }}
{% if reference %}
Reference answer:
{{ reference }}
{% endif %}
Answer A:
{{ answer_a }}

Answer B:
{{ answer_b }}

They are judged by:
{% for criterion in criteria %}- {{ criterion.name }}{% if criterion.meaning %}: {{ criterion.meaning }}{% endif %}
{% endfor %}
Reply with a JSON object and nothing else: {\"winner\": \"A\"}, {\"winner\": \"B\"}, or where neither is better \
{\"winner\": \"tie\"}";

/// What is wanted of the judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// A number for each criterion.
    Scores,
    /// The better of two answers.
    Winner,
}

/// A row, and what was answered to it.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    pub question: &'a str,
    pub references: &'a [String],
    /// The answer; or two that are compared.
    pub answers: &'a [&'a str],
}

/// What the judge is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Question {
    pub wanted: Wanted,
    pub text: String,
}

/// The templates of a judge.
pub struct Prompts {
    criteria: Vec<Criterion>,
    score: String,
    /// None where nothing is compared.
    pair: Option<String>,
}

impl Prompts {
    pub fn of(spec: &JudgeSpec) -> Self {
        let or = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| default.to_owned());
        Self {
            criteria: spec.criteria(),
            score: or(&spec.prompt, SCORE),
            pair: spec.pairwise.then(|| or(&spec.pairwise_prompt, PAIR)),
        }
    }

    /// Whether rows have to have a reference: where a template shows one, and does not ask first whether there is one.
    pub fn wants_reference(&self) -> bool {
        let shows = |template: &&String| template.contains("reference") && !template.contains("if reference");
        [Some(&self.score), self.pair.as_ref()].into_iter().flatten().any(|template| shows(&template))
    }

    /// What is wrong with the templates, by the recipe's keys.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let marks = ["\u{1}first\u{2}", "\u{1}second\u{2}"];
        let mut problems = vec![];
        for (key, answers, names) in
            [("prompt", &marks[..1], &["answer"][..]), ("pairwise_prompt", &marks, &["answer_a", "answer_b"])]
        {
            if key == "pairwise_prompt" && self.pair.is_none() {
                continue;
            }
            let references = ["a reference".to_owned()];
            let answered = Answered { question: "a question", references: &references, answers };
            match self.question(answered) {
                Err(error) => problems.push((key, format!("{error:#}"))),
                Ok(question) => {
                    let lacking = names.iter().zip(answers).find(|(_, mark)| !question.text.contains(**mark));
                    let said = lacking.map(|(name, _)| format!("the judge is not shown {{{{ {name} }}}}"));
                    problems.extend(said.map(|said| (key, said)));
                }
            }
        }
        problems
    }

    /// What is asked of an answer, or of two.
    ///
    /// # Errors
    /// Where a template is not one, or asks for what there is not.
    pub fn question(&self, answered: Answered) -> Result<Question> {
        let Answered { question, references, answers } = answered;
        let (wanted, template) = match (answers, &self.pair) {
            ([_, _], Some(pair)) => (Wanted::Winner, pair),
            _ => (Wanted::Scores, &self.score),
        };
        let mut context = json!({
            "question": question,
            "prompt": question,
            "reference": references.first().cloned().unwrap_or_default(),
            "references": references,
            "criteria": self.criteria,
            "example": self.example(wanted),
        });
        match (wanted, answers) {
            (Wanted::Winner, [a, b]) => {
                context["answer_a"] = json!(a);
                context["answer_b"] = json!(b);
            }
            _ => context["answer"] = json!(answers.first().unwrap_or(&"")),
        }
        Ok(Question { wanted, text: render(template, context)? })
    }

    /// A reply as it is wanted.
    fn example(&self, wanted: Wanted) -> String {
        match wanted {
            Wanted::Winner => "{\"winner\": \"A\"}".into(),
            Wanted::Scores => {
                // A number that stands there would be given.
                let all: Vec<String> = self.criteria.iter().map(|c| format!("{}: N", json!(c.name))).collect();
                format!("{{{}}}", all.join(", "))
            }
        }
    }

    /// The JSON Schema of a reply. Numbers are listed: not every server knows bounds of them.
    pub fn schema(&self, wanted: Wanted) -> Value {
        let object = |properties: Value| {
            let names: Vec<String> =
                properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
            json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
        };
        match wanted {
            Wanted::Winner => object(json!({ "winner": { "type": "string", "enum": ["A", "B", "tie"] } })),
            Wanted::Scores => {
                let number = || json!({ "type": "integer", "enum": (1..=10).collect::<Vec<u8>>() });
                object(self.criteria.iter().map(|c| (c.name.clone(), number())).collect())
            }
        }
    }

    pub fn criteria(&self) -> &[Criterion] {
        &self.criteria
    }
}

fn render(template: &str, context: Value) -> Result<String> {
    templates::check(template)?;
    let template = template.to_owned();
    let rendered = in_time(move || {
        let mut env = environment(syntax());
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.render_str(&template, Serde(&context)).map_err(|error| templates::said(&error))
    })?;
    rendered.map_err(|said| anyhow!("the template cannot be used: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(toml: &str) -> Prompts {
        Prompts::of(&toml::from_str(&format!("endpoint = 'http://h/v1'\nmodel = 'm'\n{toml}")).unwrap())
    }

    #[test]
    fn the_judge_is_shown_the_task_the_reference_and_the_answer() {
        let references = ["Paris".to_owned()];
        let row = Answered { question: "The capital of France?", references: &references, answers: &["Lyon {{ 1 }}"] };
        let asked = prompts("").question(row).unwrap();
        for part in
            ["The capital of France?", "Reference answer:\nParis", "Lyon {{ 1 }}", "- accuracy: ", "\"fluency\": "]
        {
            assert!(asked.text.contains(part), "{part} in {}", asked.text);
        }
        let bare = prompts("").question(Answered { references: &[], ..row }).unwrap();
        assert!(!bare.text.contains("eference answer"), "{}", bare.text);
        let own = prompts("criteria = ['tone']\nprompt = '{{ answer }}|{{ example }}|{{ references|length }}'");
        assert!(own.wants_reference() && !prompts("pairwise = true").wants_reference());
        assert_eq!(own.question(row).unwrap().text, "Lyon {{ 1 }}|{\"tone\": N}|1");
    }

    #[test]
    fn two_answers_are_shown_in_the_order_that_they_are_given() {
        let row = Answered { question: "q", references: &[], answers: &["one", "two"] };
        let asked = prompts("pairwise = true").question(row).unwrap();
        assert_eq!(asked.wanted, Wanted::Winner);
        assert!(asked.text.contains("Answer A:\none\n") && asked.text.contains("Answer B:\ntwo\n"), "{}", asked.text);
    }

    #[test]
    fn a_schema_has_every_criterion_and_nothing_else() {
        let schema = prompts("criteria = ['tone: polite', 'length']").schema(Wanted::Scores);
        assert_eq!(schema["required"], json!(["tone", "length"]));
        assert_eq!(schema["properties"]["tone"]["enum"], json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
        assert_eq!(schema["additionalProperties"], json!(false));
    }
}
