//! Commands that need no node: help, topics, completions, local mistakes, contexts.

use crate::support::Home;

#[test]
fn help_shows_every_command_and_how_to_begin() {
    let help = Home::new().run(&["--help"]).ok();
    for word in ["serve", "create", "select", "watch", "publish", "request", "completion", "First steps:"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(!help.contains("create?"), "spellings are not commands of their own: {help}");
}

#[test]
fn topics_and_commands_are_explained() {
    let home = Home::new();
    assert!(home.run(&["help", "exit-codes"]).ok().contains("70  a bug of starlane"));
    for topic in ["environment", "selectors", "formatting"] {
        home.run(&["help", topic]).ok();
    }
    let one = home.run(&["help", "context", "add"]).ok();
    assert!(one.contains("--token-file"), "{one}");
    let problem = home.run(&["help", "nonsense"]).fails(2);
    assert!(problem.contains("topics are exit-codes"), "{problem}");
}

#[test]
fn completions_are_made_for_each_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(home.run(&["completion", shell]).ok().contains("starlane"), "{shell}");
    }
}

#[test]
fn a_mistake_in_a_statement_shows_before_a_node_is_needed() {
    let home = Home::new();
    assert_eq!(
        home.run(&["exec", "creat shop<Space>"]).fails(2),
        "error[E-SYNTAX]: no command `creat`\n\
         \x20  │ creat shop<Space>\n\
         \x20  · ──┬──\n\
         \x20  ·   not a command\n\
         \x20 help: did you mean `create`?\n"
    );
    let problem = home.run(&["create", "Shop", "--kind", "Space"]).fails(2);
    assert!(problem.starts_with("error[E-POINT-SYNTAX]"), "{problem}");
    assert!(problem.contains("│ create Shop<Space>\n   ·        ┬"), "{problem}");
    let problem = home.run(&["select", "shop:**<"]).fails(2);
    assert!(problem.contains("│ select shop:**<"), "{problem}");
    let problem = home.run(&["describe", "shop::x"]).fails(2);
    assert!(problem.contains("a segment is empty"), "{problem}");
}

#[test]
fn a_mistake_in_a_script_has_its_file_and_line() {
    let home = Home::new();
    home.file("setup.script", "create shop<Space>;\n# a comment\nfetch shop\n");
    let problem = home.run(&["script", "setup.script"]).fails(2);
    assert!(problem.contains("──▸ setup.script:3:1\n 3 │ fetch shop\n"), "{problem}");
    let problem = home.run(&["script", "missing.script"]).fails(2);
    assert!(problem.contains("missing.script cannot be read"), "{problem}");
}

#[test]
fn errors_are_json_where_results_are() {
    let problem = Home::new().run(&["exec", "creat a", "-o", "json"]).fails(2);
    let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
    assert_eq!(problem["code"], "E-SYNTAX");
    assert_eq!(problem["place"]["span"]["end"], 5);
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let home = Home::new();
    let problem = home.run(&["select", "*"]).fails(6);
    assert!(problem.contains("error[E-UNREACHABLE]: no node runs from the data folder"), "{problem}");
    assert!(problem.contains("help: start one: `starlane serve`"), "{problem}");
    // A node that was killed leaves its addresses behind; nothing listens on port 1.
    home.pretend_node("127.0.0.1:1".parse().unwrap());
    let problem = home.run(&["select", "*"]).fails(6);
    assert!(problem.contains("no node answers at http://127.0.0.1:1"), "{problem}");
}

#[test]
fn contexts_are_kept_without_showing_their_tokens() {
    let home = Home::new();
    home.file("prod.token", "s3cret\n");
    let add = ["context", "add", "prod", "--api", "http://127.0.0.1:1", "--token-file", "prod.token"];
    home.run(&add).ok();
    home.run(&["context", "use", "prod"]).ok();
    assert_eq!(home.run(&["context", "ls"]).ok(), "USED  NAME  API\n*     prod  http://127.0.0.1:1\n");
    let shown = home.run(&["context", "show", "-o", "json"]).ok();
    assert!(!shown.contains("s3cret") && shown.contains("\"current\": true"), "{shown}");
    let problem = home.run_without_data(&["select", "*"]).fails(6);
    assert!(problem.contains("http://127.0.0.1:1"), "{problem}");
    home.run(&["context", "use", "nope"]).fails(3);
    home.run(&["select", "*", "--context", "nope"]).fails(3);
    home.run(&["context", "rm", "prod"]).ok();
    assert_eq!(home.run(&["context", "ls", "-o", "name"]).ok(), "");
}

#[test]
fn a_new_project_never_overwrites() {
    let home = Home::new();
    home.run(&["new", "hello"]).ok();
    assert!(home.path().join("hello/src/lib.rs").is_file());
    assert!(home.path().join("hello/vendor/mechtron-sdk/src/lib.rs").is_file());
    let problem = home.run(&["new", "hello"]).fails(5);
    assert!(problem.contains("exists already"), "{problem}");
    home.run(&["new", "Hello"]).fails(2);
}

#[test]
fn wrong_usage_is_two() {
    let home = Home::new();
    for arguments in [
        &["nonsense"][..],
        &["select"],
        &["watch", "*", "--timeout", "x"],
        &["cp", "a", "b"],
        &["token", "--role", "king"],
        &["token", "--ttl", "soon"],
        &["token", "--label", "tier"],
        &["token", "--name", "Edge"],
        &["node", "describe", "Edge"],
        &["node", "label", "edge-1"],
        &["node", "label", "edge-1", "tier"],
        &["node", "label", "edge-1", "tier=a", "tier-"],
        &["why", "Shop"],
        &["move", "shop:cart"],
        &["scatter", "shop:*", "--until", "0"],
        &["scatter", "shop:*^Ext<stock>"],
        &["get", "shop; delete shop", "--stale-ok"],
        &["serve", "--join", "cloud:4343"],
        &["serve", "--join", "sl1.a.b.c", "cloud:4343"],
        &["serve", "--advertise", "cloud"],
        &["serve", "--listen", "4343"],
        &["serve", "--label", "Tier=edge"],
        &["serve", "--name", "Edge"],
    ] {
        home.run(arguments).fails(2);
    }
}
