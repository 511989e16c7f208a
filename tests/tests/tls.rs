//! A real node whose doors speak TLS, and the command line that talks to it.
#![expect(clippy::expect_used, reason = "helpers of tests end the test")]

use std::fs;
use std::path::PathBuf;

use rcgen::KeyPair;
use starlane_client::{Call, Client, Config, Error, Reply, Step};
use tempfile::TempDir;
use tests::{Answer, Node, Serve, certificates};

/// A node with a certificate for `localhost`, the folder that has it with its authority, and one with those of somebody else.
fn with_tls() -> (Node, TempDir, TempDir) {
    let [folder, other] = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
    certificates::write(folder.path(), "localhost");
    certificates::write(other.path(), "localhost");
    let file = |name: &str| folder.path().join(name);
    let tls = Some((file("cert.pem"), file("key.pem")));
    (Node::serve(Serve { tls, ..Serve::named("node-1") }), folder, other)
}

#[test]
fn a_node_with_tls_serves_who_believes_its_certificate() {
    let (mut node, folder, other) = with_tls();
    let file = |name: &str| folder.path().join(name);
    // The folder's own command line just works, also after a restart, though the address is not the certificate's name.
    node.exec("create shop<Space>").ok();
    node.kill();
    node.restart();
    assert!(node.exec("select *").ok().contains("shop<Space>"));

    let contexts = file("contexts.json");
    let run = |arguments: &[&str]| -> Answer {
        let mut command = node.command(arguments.iter().copied());
        command.env_remove("STARLANE_DATA").env("STARLANE_CONFIG", &contexts).current_dir(folder.path());
        command.output().expect("the command runs").into()
    };
    let port = node.api().port();
    let token = node.data().join("admin.token");
    let add = |name: &str, api: &str, ca: Option<PathBuf>| {
        let mut arguments = vec!["context", "add", name, "--api", api, "--token-file"];
        arguments.push(token.to_str().expect("a path"));
        let ca = ca.map(|ca| ca.to_str().expect("a path").to_owned());
        if let Some(ca) = &ca {
            arguments.extend(["--ca", ca]);
        }
        run(&arguments)
    };
    let named = format!("https://localhost:{port}");
    add("right", &named, Some("ca.pem".into())).ok();
    assert!(run(&["--context", "right", "select", "*"]).ok().contains("shop<Space>"));
    add("stranger", &named, Some(other.path().join("ca.pem"))).ok();
    add("unsigned", &named, None).ok();
    add("misnamed", &format!("https://127.0.0.1:{port}"), Some("ca.pem".into())).ok();
    for wrong in ["stranger", "unsigned", "misnamed"] {
        let told = run(&["--context", wrong, "select", "*"]).fails(6);
        assert!(told.contains("is not believed") && told.contains("--ca FILE"), "{wrong}: {told}");
    }
    add("plain", &format!("http://localhost:{port}"), None).ok();
    let told = run(&["--context", "plain", "select", "*"]).fails(2);
    assert!(told.contains("speaks TLS") && told.contains("https"), "{told}");
    assert!(add("lost", &named, Some("gone.pem".into())).fails(2).contains("gone.pem"));
    assert!(
        add("no-need", &format!("http://localhost:{port}"), Some("ca.pem".into())).fails(2).contains("--ca")
    );
}

#[test]
fn what_cannot_be_shown_is_told_before_anything_starts() {
    let (folder, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    certificates::write(folder.path(), "localhost");
    fs::write(folder.path().join("text.pem"), "no certificate").expect("a file can be written");
    fs::write(folder.path().join("other.pem"), KeyPair::generate().expect("a key").serialize_pem())
        .expect("a file can be written");
    let started = data.path().join("data");
    let serve = |more: &[&str]| -> Answer {
        let mut command = std::process::Command::new(tests::binary());
        command.args([
            "serve",
            "--http",
            "127.0.0.1:0",
            "--api",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
            "--data",
        ]);
        command.arg(&started).args(more).current_dir(folder.path()).env("NO_COLOR", "1");
        command.output().expect("the command runs").into()
    };
    for (arguments, told) in [
        (&["--tls-cert", "gone.pem", "--tls-key", "key.pem"][..], "gone.pem cannot be read"),
        (&["--tls-cert", "text.pem", "--tls-key", "key.pem"], "text.pem holds no certificate"),
        (&["--tls-cert", "cert.pem", "--tls-key", "cert.pem"], "cert.pem holds no private key"),
        (&["--tls-cert", "cert.pem", "--tls-key", "other.pem"], "is not that of the certificate in cert.pem"),
        (&["--tls-cert", "cert.pem"], "--tls-key"),
        (&["--tls-key", "key.pem"], "--tls-cert"),
        (&["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--behind-proxy"], "cannot be used with"),
    ] {
        let error = serve(arguments).fails(2);
        assert!(error.contains(told), "{arguments:?}: {error}");
        assert!(!started.exists(), "nothing was started: {arguments:?}");
    }
    let mut open = std::process::Command::new(tests::binary());
    open.args(["serve", "--http", "0.0.0.0:0", "--api", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data"]);
    let open: Answer = open.arg(&started).output().expect("the command runs").into();
    let told = open.fails(2);
    assert!(told.contains("can be reached by others") && told.contains("--tls-cert FILE"), "{told}");
}

#[test]
fn the_rust_client_reaches_a_node_with_tls_whose_certificate_it_believes() {
    let (mut node, folder, other) = with_tls();
    let file = |name: &str| folder.path().join(name);
    let of_data = Config::of_data(node.data()).expect("the node runs");
    let named = |scheme: &str, host: &str| {
        Config::new(format!("{scheme}://{host}:{}", node.api().port()), of_data.token.clone())
    };
    let believes = |folder: &std::path::Path| named("https", "localhost").ca(folder.join("ca.pem"));
    let refused = [
        (believes(other.path()), "its certificate is not believed"),
        (named("https", "localhost"), "its certificate is not believed"),
        (named("https", "127.0.0.1").ca(file("ca.pem")), "its certificate is not believed"),
        (named("https", "localhost").ca(file("none.pem")), "none.pem"),
        (named("https", "localhost").ca(file("key.pem")), "no certificate in PEM form"),
        (named("http", "localhost"), "http://localhost"),
    ];
    let right = believes(folder.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for (config, why) in refused {
            let told = Client::connect(config).await.expect_err("it is not reached").to_string();
            assert!(told.contains(why), "{told}");
        }
        let client = Client::connect(right).await.expect("it is reached");
        client.ensure("shop", "Space", ()).await.expect("a space");
        let serves = Client::connect(of_data).await.expect("the folder's own is believed");
        let answer = |_| async { Ok(Reply::text("over TLS")) };
        serves.serve("shop:greeter", Some("Portal"), answer).await.expect("it is served");
        let reply = client.request("shop:greeter", Call::new("Greet")).await.expect("it answers");
        assert_eq!(reply.to_text(), "over TLS");
        let mut watch = client.watch("shop:*<Base>").await.expect("a watch");
        assert!(matches!(watch.next().await, Some(Step::Listed { .. })));

        // A connection that breaks is made again, under TLS as well.
        node.kill();
        node.restart();
        while let Err(error) = client.create("shop:late", "Base", ()).await {
            assert!(!matches!(error, Error::Closed), "{error}");
        }
        loop {
            match watch.next().await.expect("the watch goes on") {
                Step::Changed { changes, .. } => {
                    assert_eq!(changes[0].resource().point.to_string(), "shop:late");
                    return;
                }
                Step::Bookmark { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
}
