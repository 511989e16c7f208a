//! Reads every sample of the language in the book.

#![expect(clippy::unwrap_used, reason = "what a test builds itself is right, or the test fails")]

use starlane_core::{Bind, Bindings, Config, Kind, Point, Query, Script, Selector};

const PAGE: &str = include_str!("../../docs/language.md");

/// The samples of one language, as the word after their fence says.
fn samples(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let samples: Vec<_> =
        PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!samples.is_empty(), "no sample of {language}");
    samples
}

#[test]
fn points() {
    for line in samples("point").concat().lines() {
        assert!(line.parse::<Point>().is_ok(), "{line}");
    }
}

#[test]
fn kinds() {
    for line in samples("kind").concat().lines() {
        assert!(line.parse::<Kind>().is_ok(), "{line}");
    }
}

#[test]
fn selectors() {
    for line in samples("selector").concat().lines() {
        assert!(line.parse::<Selector>().is_ok(), "{line}");
    }
}

#[test]
fn queries() {
    for line in samples("query").concat().lines() {
        let query: Query = line.parse().unwrap();
        assert!(!matches!(query, Query::Select(_)) && query.to_string() == line, "{line}");
    }
}

#[test]
fn scripts() {
    for sample in samples("script") {
        let script = Script::parse(sample).unwrap_or_else(|problem| panic!("{sample}: {problem:?}"));
        for statement in &script.statements {
            statement.resolve(&Bindings::default()).unwrap();
        }
    }
}

#[test]
fn configs() {
    for sample in samples("config") {
        let config = Config::parse(sample, "").unwrap_or_else(|problem| panic!("{sample}: {problem:?}"));
        config.resolve(&"shop:repo:shop:1.0.0".parse().unwrap(), &"shop:app".parse().unwrap()).unwrap();
    }
}

#[test]
fn binds() {
    for sample in samples("bind") {
        Bind::parse(sample, "").unwrap_or_else(|problem| panic!("{sample}: {problem:?}"));
    }
}

#[test]
fn no_sample_goes_unread() {
    let read = ["point", "kind", "selector", "query", "script", "config", "bind", "text", ""];
    for fence in PAGE.lines().filter_map(|line| line.strip_prefix("```")) {
        assert!(read.contains(&fence), "nothing reads samples of `{fence}`");
    }
}
