//! Questions to many, and what each of them answered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use starlane_core::{NodeName, Point};
use utoipa::ToSchema;

use super::{Data, ProblemDetails};
use crate::schema;

/// How many good answers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// As many as were asked.
    #[default]
    All,
    /// More than half of those who were asked.
    Quorum,
    /// So many.
    Count(u64),
}

/// A text that does not say how many answers are waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not say how many answers to wait for: `all`, `quorum`, or a number from 1")]
pub struct UntilError(String);

impl Until {
    /// How many good answers that is when so many are asked.
    pub fn wanted(self, asked: u64) -> u64 {
        match self {
            Until::All => asked,
            Until::Quorum => asked / 2 + 1,
            Until::Count(count) => count,
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::All => f.write_str("all"),
            Until::Quorum => f.write_str("quorum"),
            Until::Count(count) => count.fmt(f),
        }
    }
}

impl FromStr for Until {
    type Err = UntilError;

    fn from_str(text: &str) -> Result<Self, UntilError> {
        match text {
            "all" => Ok(Until::All),
            "quorum" => Ok(Until::Quorum),
            _ => match text.parse() {
                Ok(count @ 1..) => Ok(Until::Count(count)),
                _ => Err(UntilError(text.to_owned())),
            },
        }
    }
}

/// A line of a gathering: an answer, or its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ScatterLine {
    /// What one of those who were asked answered.
    Answer(Box<ScatterAnswer>),
    /// The last line.
    End(ScatterEnd),
}

/// What one of those who were asked answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScatterAnswer {
    /// Who.
    #[schema(value_type = schema::Point)]
    pub point: Point,
    /// Where it lives, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NodeName>)]
    pub node: Option<NodeName>,
    /// How the request ended.
    pub outcome: ScatterOutcome,
    /// The HTTP status of the answer, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the body of the answer means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The body of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Data>,
    /// Why there is no answer, or not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemDetails>,
}

impl ScatterAnswer {
    /// Whether it counts among the good answers: it came, and its status is below 400.
    pub fn is_good(&self) -> bool {
        self.outcome == ScatterOutcome::Ok && self.status.is_some_and(|status| status < 400)
    }
}

/// How one request of many ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScatterOutcome {
    /// It was answered.
    Ok,
    /// It surely did not run.
    Rejected,
    /// It ran and failed.
    Failed,
    /// It may have run.
    Unknown,
}

/// How a gathering ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScatterEnd {
    /// How many ended before enough good answers had come.
    pub gathered: u64,
    /// How many were asked.
    pub asked: u64,
    /// How many good answers came: those with a status below 400.
    pub ok: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_in_words_how_many_answers_are_enough() {
        for (text, asked, wanted) in
            [("all", 5, 5), ("all", 0, 0), ("quorum", 4, 3), ("quorum", 5, 3), ("quorum", 1, 1), ("2", 5, 2)]
        {
            let until: Until = text.parse().unwrap();
            assert_eq!(
                (until.wanted(asked), until.to_string()),
                (wanted, text.to_owned()),
                "{text} of {asked}"
            );
        }
        for text in ["", "0", "-1", "most", "All", "1.5", "99999999999999999999999"] {
            assert!(text.parse::<Until>().is_err(), "{text}");
        }
    }

    #[test]
    fn lines_are_told_apart() {
        let end = ScatterLine::End(ScatterEnd { gathered: 2, asked: 3, ok: 1 });
        let answer = r#"{"point":"shop:a","outcome":"ok","status":200,"body":{"text":"hi"}}"#;
        for (line, json) in [
            (serde_json::from_str::<ScatterLine>(answer).unwrap(), answer.to_owned()),
            (end.clone(), r#"{"gathered":2,"asked":3,"ok":1}"#.to_owned()),
        ] {
            assert_eq!(serde_json::to_string(&line).unwrap(), json);
            assert_eq!(serde_json::from_str::<ScatterLine>(&json).unwrap(), line);
        }
        let ScatterLine::Answer(read) = serde_json::from_str(answer).unwrap() else { panic!("no answer") };
        assert!(read.is_good() && read.body == Some(Data::Text("hi".into())));
    }
}
