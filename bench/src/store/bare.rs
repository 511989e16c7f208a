//! An etcd as its own clients use it: one connection for all.

use bytes::Bytes;
use futures::StreamExt;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::{Subject, number_of, value};

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreate {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(message, repeated, tag = "11")]
    events: Vec<WatchEvent>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchEvent {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

pub(super) fn subject(member: &str) -> Subject {
    let endpoint = Endpoint::from_shared(format!("http://{member}")).expect("an address");
    let grpc = Grpc::new(endpoint.tcp_nodelay(true).connect_lazy());
    let (puts, gets, watches) = (grpc.clone(), grpc.clone(), grpc);
    Subject {
        name: "bare etcd".to_owned(),
        put: Box::new(move |number| {
            let (grpc, put) = (puts.clone(), PutRequest { key: key(number), value: value() });
            Box::pin(async move {
                let PutResponse {} = ask(grpc, "/etcdserverpb.KV/Put", put).await;
            })
        }),
        get: Box::new(move |number| {
            let (grpc, range) = (gets.clone(), RangeRequest { key: key(number) });
            Box::pin(async move {
                let RangeResponse { kvs } = ask(grpc, "/etcdserverpb.KV/Range", range).await;
                assert_eq!(kvs.len(), 1, "it was put");
            })
        }),
        watch: Box::new(move || {
            let mut grpc = watches.clone();
            Box::pin(async move {
                let create = WatchCreate { key: "/bare/".into(), range_end: "/bare0".into() };
                let asked = futures::stream::once(std::future::ready(WatchRequest { create: Some(create) }));
                let asked = tonic::Request::new(asked.chain(futures::stream::pending()));
                grpc.ready().await.expect("etcd answers");
                let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
                let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
                let mut told = grpc.streaming(asked, path, codec).await.expect("it watches").into_inner();
                told.next().await.expect("it says that it watches").expect("it watches");
                let numbers = told.flat_map(|told| {
                    let events = told.expect("it watches").events.into_iter();
                    let numbers = events.filter_map(|event| number_of(&event.kv?.key));
                    futures::stream::iter(numbers.collect::<Vec<_>>())
                });
                numbers.boxed()
            })
        }),
    }
}

async fn ask<Q, A>(mut grpc: Grpc<Channel>, path: &'static str, request: Q) -> A
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.expect("etcd answers");
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await;
    answer.expect("etcd does it").into_inner()
}

fn key(number: u64) -> Bytes {
    format!("/bare/key-{number:012}").into()
}
