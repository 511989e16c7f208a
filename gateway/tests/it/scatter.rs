//! One question to many.

use gateway::Limits;
use gateway::shapes::{ScatterAnswer, ScatterEnd, ScatterLine, ScatterOutcome};

use crate::client::{Reply, World};

/// The answers and the last line.
fn read(reply: &Reply) -> (Vec<ScatterAnswer>, ScatterEnd) {
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"));
    let mut answers = Vec::new();
    let mut lines = reply.text().lines().map(|line| serde_json::from_str(line).unwrap());
    while let Some(ScatterLine::Answer(answer)) = lines.next() {
        answers.push(*answer);
    }
    let last = serde_json::from_str(reply.text().lines().last().unwrap()).unwrap();
    assert_eq!(reply.text().lines().count(), answers.len() + 1, "{}", reply.text());
    (answers, last)
}

#[tokio::test]
async fn each_answer_is_a_line_and_the_last_line_counts_them() {
    let world = World::new().await;
    let path = "/v1/scatter?select=shop:*%3CMechtron%3E&method=Stock&path=/all&timeout=2s";
    let (answers, end) = read(&world.api("POST", path, "content-type: application/json\r\n", "{}").await);
    assert_eq!(
        world.mesh.heard.lock().unwrap()[0],
        "Ext<Stock> /all to each of shop:*<Mechtron> from mesh:nodes:test for mesh:users:admin in 2s, 10000 at most"
    );
    let told: Vec<_> = answers
        .iter()
        .map(|answer| {
            let code = answer.problem.as_ref().map(|problem| problem.code.to_string()).unwrap_or_default();
            (answer.outcome, answer.status, code)
        })
        .collect();
    use ScatterOutcome::{Failed, Ok, Rejected, Unknown};
    let expected = [
        (Ok, Some(200), ""),
        (Ok, Some(409), ""),
        (Rejected, None, "E-NOT-READY"),
        (Failed, None, "E-TRAP"),
        (Unknown, None, "E-TIMEOUT"),
        (Failed, None, "E-HANDLER"),
        (Ok, Some(200), "E-CORRUPT"),
        (Ok, Some(200), "E-TOO-LARGE"),
        (Ok, Some(200), ""),
    ];
    assert_eq!(told, expected.map(|(outcome, status, code)| (outcome, status, code.to_owned())));
    assert_eq!(
        (answers[0].point.as_str(), answers[0].content_type.as_deref()),
        ("shop:a", Some("text/plain"))
    );
    assert_eq!(answers[0].body.as_ref().unwrap().to_bytes().unwrap(), b"hi");
    assert_eq!(answers[8].body.as_ref().unwrap().to_bytes().unwrap(), crate::fake::pattern(0..300));
    assert_eq!(answers[2].node, None);
    assert_eq!(end, ScatterEnd { gathered: 9, asked: 9, ok: 4 });
}

#[tokio::test]
async fn the_rest_is_given_up_when_enough_have_answered_well() {
    let world = World::new().await;
    for (until, gathered, ok) in [("1", 1, 1), ("2", 7, 2), ("quorum", 9, 4), ("all", 9, 4), ("50", 9, 4)] {
        let reply = world.api("POST", &format!("/v1/scatter?select=shop:*&until={until}"), "", "").await;
        assert_eq!(read(&reply).1, ScatterEnd { gathered, asked: 9, ok }, "{until}");
        assert_eq!(world.mesh.last(), "the rest is given up");
    }
    let (answers, end) = read(&world.api("POST", "/v1/scatter?select=nothing", "", "").await);
    assert_eq!((answers.len(), end), (0, ScatterEnd { gathered: 0, asked: 0, ok: 0 }));
}

#[tokio::test]
async fn wrong_questions_are_refused_before_anybody_is_asked() {
    let world = World::new().await;
    for (query, code) in [
        ("", "E-USAGE"),
        ("?select=a&until=most", "E-USAGE"),
        ("?select=a&until=0", "E-USAGE"),
        ("?select=a&method=get", "E-USAGE"),
        ("?select=a&path=x", "E-USAGE"),
        ("?select=a&timeout=301", "E-USAGE"),
        ("?select=a&tail=1", "E-USAGE"),
        ("?select=(", "E-SYNTAX"),
    ] {
        let reply = world.api("POST", &format!("/v1/scatter{query}"), "", "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, code), "{query}");
    }
    let world = World::limited(Limits { streams_max: 0, ..Limits::default() }).await;
    assert_eq!(world.api("POST", "/v1/scatter?select=a", "", "").await.problem(), "E-BUSY");
    assert!(world.mesh.heard.lock().unwrap().is_empty());
}
