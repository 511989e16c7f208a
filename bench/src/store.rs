//! Durable puts: on the embedded store, on etcd through ours, and on that etcd alone, in turn in one run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http::uri::PathAndQuery;
use resource_registry::store::{
    Commit, EtcdConfig, EtcdStore, Expect, Operation, RedbConfig, RedbStore, Store,
};
use serde_json::{Value, json};
use tests::etcd::Etcd;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// How many put at the same time.
const CLIENTS: [usize; 3] = [1, 8, 64];
/// How large a value is.
const BYTES: usize = 300;

/// Writes a key that is new, and is done when it is durable.
type Put = Arc<dyn Fn(u64) -> BoxFuture<'static, ()> + Send + Sync>;

/// What etcd's own call takes.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// Prints the rows, and writes them where `json` says.
pub(crate) fn run(rounds: usize, seconds: f64, json: Option<&Path>) {
    let Some(etcd) = Etcd::start(1) else { std::process::exit(1) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redb = RedbStore::open(&folder.path().join("store"), &RedbConfig::default()).expect("a store");
    let config = EtcdConfig::at(&etcd.address("bench")).expect("an address");
    let ours = EtcdStore::open(config).expect("etcd answers");
    let bare = runtime.block_on(async { bare(etcd.member(0)) });
    let stores: [(&str, Put); 3] =
        [("redb", through(Arc::new(redb))), ("etcd", through(Arc::new(ours))), ("bare etcd", bare)];
    let mut rows = Vec::new();
    println!("durable puts of {BYTES} B a second; × is beside the bare etcd");
    let last = AtomicU64::new(0);
    for clients in CLIENTS {
        let mut best = [0.0f64; 3];
        for _ in 0..rounds {
            for ((_, put), best) in stores.iter().zip(&mut best) {
                *best = best.max(rate(&runtime, put, clients, seconds, &last));
            }
        }
        for ((name, _), per_second) in stores.iter().zip(best) {
            let beside = per_second / best[2];
            println!("{clients:>3} clients  {name:<10}{per_second:>10.0}/s  {beside:>5.2} ×");
            rows.push(
                json!({"clients": clients, "store": name, "per_second": per_second, "beside_bare": beside}),
            );
        }
    }
    if let Some(path) = json {
        std::fs::write(path, Value::from(rows).to_string()).expect("the figures are written");
    }
}

fn rate(runtime: &Runtime, put: &Put, clients: usize, seconds: f64, last: &AtomicU64) -> f64 {
    let (begun, time) = (Instant::now(), Duration::from_secs_f64(seconds));
    let client = || async {
        let mut count = 0u64;
        while begun.elapsed() < time {
            put(last.fetch_add(1, Ordering::Relaxed)).await;
            count += 1;
        }
        count
    };
    let counts = runtime.block_on(join_all((0..clients).map(|_| client())));
    counts.into_iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64()
}

fn through(store: Arc<dyn Store>) -> Put {
    let value = Bytes::from(vec![7; BYTES]);
    Arc::new(move |number| {
        let operations =
            vec![Operation::put(format!("bench:key-{number:012}"), Expect::Absent, value.clone())];
        let committed = store.commit(Commit { operations, ..Commit::default() });
        Box::pin(async move {
            committed.await.expect("it is committed");
        })
    })
}

/// One connection for all, as etcd's own clients have.
fn bare(member: &str) -> Put {
    let endpoint = Endpoint::from_shared(format!("http://{member}")).expect("an address");
    let grpc = Grpc::new(endpoint.tcp_nodelay(true).connect_lazy());
    let value = Bytes::from(vec![7; BYTES]);
    Arc::new(move |number| {
        let (mut grpc, value) = (grpc.clone(), value.clone());
        Box::pin(async move {
            grpc.ready().await.expect("etcd answers");
            let put = PutRequest { key: format!("/bare/key-{number:012}").into(), value };
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
            let codec = ProstCodec::<PutRequest, PutResponse>::default();
            grpc.unary(tonic::Request::new(put), path, codec).await.expect("it is put");
        })
    })
}
