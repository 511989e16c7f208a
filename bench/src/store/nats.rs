//! A key-value bucket of a NATS server, as its clients make and use it: a stream in a file, that keeps the last of each subject.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::Client;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{BYTES, Subject, number_of, value};
use crate::peer::nats::told;

const LISTENS: &str = "Listening for client connections on ";
const READY: &str = "Server is ready";

/// A server with its own folder.
pub(super) struct Server {
    process: Child,
    address: SocketAddr,
    /// Whether what it acknowledges is synced to the disk; servers before 2.10 cannot be told to.
    syncs: bool,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(super) fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (config, data) = (folder.path().join("nats.conf"), folder.path().join("data"));
        let write = |more: &str| {
            let text = format!("listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: {data:?}{more} }}\n");
            std::fs::write(&config, text).expect("a file can be written");
        };
        write(", sync_interval: always");
        let checked = Command::new(program).arg("-t").arg("--config").arg(&config).output();
        let syncs = checked.expect("the server runs").status.success();
        if !syncs {
            write("");
        }
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the server starts");
        let said = told(process.stderr.take().expect("it is piped"), LISTENS, READY);
        Self { process, address: said.parse().expect("an address"), syncs, _folder: folder }
    }

    pub(super) async fn subject(&self) -> Subject {
        let client = async_nats::connect(self.address.to_string()).await.expect("the server is there");
        let bucket = json!({
            "name": "KV_bench", "subjects": ["$KV.bench.>"], "storage": "file", "max_msgs_per_subject": 1,
            "discard": "new", "allow_rollup_hdrs": true, "allow_direct": true, "num_replicas": 1,
        });
        ask(&client, "$JS.API.STREAM.CREATE.KV_bench", bucket).await;
        let (puts, gets, watches) = (client.clone(), client.clone(), client);
        Subject {
            name: if self.syncs { "NATS KV" } else { "NATS KV, which does not sync" }.to_owned(),
            put: Box::new(move |number| {
                let client = puts.clone();
                Box::pin(async move {
                    let told = client.request(key(number), value()).await.expect("it is put");
                    read(&told.payload);
                })
            }),
            get: Box::new(move |number| {
                let client = gets.clone();
                Box::pin(async move {
                    let asked = format!("$JS.API.DIRECT.GET.KV_bench.{}", key(number));
                    let told = client.request(asked, "".into()).await.expect("it is read");
                    assert_eq!(told.payload.len(), BYTES, "it was put");
                })
            }),
            watch: Box::new(move || {
                let client = watches.clone();
                Box::pin(async move {
                    let inbox = client.new_inbox();
                    let told = client.subscribe(inbox.clone()).await.expect("it subscribes");
                    let config = json!({
                        "deliver_subject": inbox, "deliver_policy": "new", "ack_policy": "none", "max_deliver": 1,
                        "filter_subject": "$KV.bench.>", "replay_policy": "instant", "mem_storage": true,
                    });
                    let asked = json!({ "stream_name": "KV_bench", "config": config });
                    ask(&client, "$JS.API.CONSUMER.CREATE.KV_bench", asked).await;
                    let numbers = told.filter_map(|told| async move { number_of(told.subject.as_bytes()) });
                    numbers.boxed()
                })
            }),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

async fn ask(client: &Client, what: &'static str, body: Value) {
    let told = client.request(what, body.to_string().into()).await.expect("the server answers");
    read(&told.payload);
}

/// Ends when the server could not do it.
fn read(answer: &[u8]) {
    let answer: Value = serde_json::from_slice(answer).expect("it is JSON");
    assert!(answer["error"].is_null(), "{answer}");
}

fn key(number: u64) -> String {
    format!("$KV.bench.key-{number:012}")
}
