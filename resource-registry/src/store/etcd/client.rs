//! Calls to the members of an etcd: each bounded in time, to one member until it fails, then to the next.
//!
//! What only reads is tried again until its time is over. What writes is tried once, and whoever wrote is told whether
//! it may have happened.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::config::{EtcdConfig, EtcdTls};
use super::login::{self, Login, Token};
use super::rpc::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, CompactionResponse, KeyValue, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    revision,
};
use crate::backoff::{Backoff, jitter};
use crate::store::{Contact, Error};

/// The largest answer: a page of rows that are as large as rows may be.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How a certificate begins in a PEM file.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a quiet connection is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(2);
/// The most ranges of one transaction: 128 is what etcd allows unless told otherwise.
pub(super) const RANGES_MAX: usize = 100;
/// How many rows a range fetches at first; more when they are small.
const PAGE_ROWS: i64 = 128;
const PAGE_ROWS_MAX: i64 = 10_000;
/// Pages become smaller from twice as many bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// Why a call brought no answer.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It was not sent, or etcd did not take it: nothing happened.
    Unsent(Arc<str>),
    /// It was sent, and may have happened.
    Lost(Arc<str>),
    /// What was asked for is older than what etcd remembers.
    Forgotten,
    /// etcd does not do it, and asking again is of no use for now.
    Refused(Error),
}

pub(super) struct Client {
    /// What it is called in errors.
    pub(super) name: Arc<str>,
    members: Vec<Grpc<Channel>>,
    /// As whom it is asked, where it lets only users in.
    login: Option<Login>,
    current: AtomicUsize,
    try_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many tries failed since one was answered, and why the last did.
    failed: usize,
    reason: Arc<str>,
    /// When it was last known how far the history goes.
    watched: Option<Instant>,
}

impl Client {
    /// Connects when it is first used; to be made inside the runtime that drives it.
    pub(super) fn new(name: Arc<str>, config: &EtcdConfig) -> Result<Self, Error> {
        let denied = |reason: String| Error::Denied { file: name.clone(), reason: reason.into() };
        let tls = config.tls.as_ref().map(read_tls).transpose().map_err(denied)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let connect = |member: &String| {
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}"))
                .map_err(|error| denied(format!("`{member}` is no address: {error}")))?;
            if let Some(tls) = &tls {
                let unusable =
                    |error| denied(format!("the certificates cannot be used: {}", innermost(&error)));
                endpoint = endpoint.tls_config(tls.clone()).map_err(unusable)?;
            }
            let endpoint = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_EVERY)
                .keep_alive_while_idle(true);
            Ok(Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX))
        };
        Ok(Self {
            members: config.members.iter().map(connect).collect::<Result<_, Error>>()?,
            login: config.user.clone().map(|user| Login::new(name.clone(), user)),
            name,
            current: AtomicUsize::new(0),
            try_timeout: config.try_timeout,
            state: Mutex::default(),
        })
    }

    /// How it is with the way to etcd: lost when no member answers.
    pub(super) fn contact(&self) -> Contact {
        let state = self.state.lock();
        let lost = (state.failed >= self.members.len()).then(|| state.reason.clone());
        Contact { lost, watched: state.watched.map(|at| at.elapsed()) }
    }

    /// It was just seen how far the history goes.
    pub(super) fn note_watched(&self) {
        self.state.lock().watched = Some(Instant::now());
    }

    /// Writes, once.
    pub(super) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Fault> {
        self.once("/etcdserverpb.KV/Txn", txn).await
    }

    /// Lets etcd forget what was before a revision.
    pub(super) async fn compact(&self, revision: i64) -> Result<(), Fault> {
        let request = CompactionRequest { revision };
        let done: Result<CompactionResponse, Fault> = self.once("/etcdserverpb.KV/Compact", request).await;
        done.map(drop)
    }

    /// A key as it is now, and at which revision of etcd that is.
    pub(super) async fn get(&self, key: Bytes, until: Instant) -> Result<(Option<KeyValue>, i64), Fault> {
        let answer = self.range(RangeRequest::key(key), until).await?;
        Ok((answer.kvs.into_iter().next(), revision(answer.header.as_ref())))
    }

    /// Some keys, tried until it is answered.
    pub(super) async fn range(&self, range: RangeRequest, until: Instant) -> Result<RangeResponse, Fault> {
        self.read("/etcdserverpb.KV/Range", range, until).await
    }

    /// Several ranges at one revision of etcd, which is told; tried until they are answered.
    pub(super) async fn ranges(
        &self,
        ranges: Vec<RangeRequest>,
        until: Instant,
    ) -> Result<(Vec<RangeResponse>, i64), Fault> {
        let (mut found, mut at, count) = (Vec::with_capacity(ranges.len()), 0, ranges.len());
        let mut ranges = ranges.into_iter().peekable();
        while ranges.peek().is_some() {
            let pinned = |range: RangeRequest| match range.revision {
                0 => range.at(at),
                _ => range,
            };
            let success = ranges.by_ref().take(RANGES_MAX).map(pinned).map(RequestOp::range).collect();
            let txn = TxnRequest { success, ..TxnRequest::default() };
            let answer: TxnResponse = self.read("/etcdserverpb.KV/Txn", txn, until).await?;
            at = if at == 0 { revision(answer.header.as_ref()) } else { at };
            found.extend(answer.into_ranges());
        }
        match found.len() == count {
            true => Ok((found, at)),
            false => Err(Fault::Lost("etcd answered something else".into())),
        }
    }

    /// Ends with the connection, or when etcd has enough of it; tells of each change of a key.
    pub(super) async fn watch(&self, member: usize, key: Bytes, mut changed: impl FnMut()) -> Fault {
        let member = member % self.members.len();
        let token = match self.token(member).await {
            Ok(token) => token,
            Err(fault) => return fault,
        };
        let mut grpc = self.members[member].clone();
        let create = WatchRequest { create: Some(WatchCreateRequest { key }) };
        let asked = futures::stream::once(std::future::ready(create)).chain(futures::stream::pending());
        let watching = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            grpc.streaming(login::under(token.as_ref(), asked), path, codec).await
        };
        let mut events = match self.in_time(watching).await {
            Ok(opened) => opened.into_inner(),
            Err(status) => return fault(&self.name, &status),
        };
        loop {
            match events.message().await {
                Ok(Some(WatchResponse { canceled: false, .. })) => changed(),
                Ok(ended) => {
                    let reason = ended.map(|ended| ended.cancel_reason).unwrap_or_default();
                    // It does not always say which: the token may be older than this member.
                    if let (Some(login), Some(token)) = (&self.login, token) {
                        login.forget(&token).await;
                    }
                    return Fault::Lost(format!("the watch ended: {reason}").into());
                }
                Err(status) => return fault(&self.name, &status),
            }
        }
    }

    async fn read<Q, A>(&self, path: &'static str, request: Q, until: Instant) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut backoff = Backoff::default();
        loop {
            match self.once(path, request.clone()).await {
                Err(fault @ (Fault::Unsent(_) | Fault::Lost(_))) => {
                    let wait = backoff.next(jitter());
                    if Instant::now() + wait >= until {
                        return Err(fault);
                    }
                    tokio::time::sleep(wait).await;
                }
                answer => return answer,
            }
        }
    }

    /// Asks the member that answered last; when it fails, the next call asks another.
    async fn once<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let current = self.current.load(Ordering::Relaxed);
        let result = match &self.login {
            Some(login) => self.signed(login, current, path, request).await,
            None => {
                let answer = self.call(current, path, Request::new(request)).await;
                answer.map_err(|status| fault(&self.name, &status))
            }
        };
        let mut state = self.state.lock();
        match &result {
            Err(Fault::Unsent(reason) | Fault::Lost(reason)) => {
                state.failed += 1;
                state.reason = reason.clone();
                if state.failed == self.members.len() {
                    tracing::warn!(etcd = %self.name, %reason, "etcd is out of reach; what is here goes on");
                }
                let next = (current + 1) % self.members.len();
                // Unless somebody else turned to another already.
                _ = self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            Ok(_) | Err(Fault::Forgotten | Fault::Refused(_)) => {
                if state.failed >= self.members.len() {
                    tracing::info!(etcd = %self.name, "etcd is in reach again");
                }
                state.failed = 0;
            }
        }
        result
    }

    /// Asks a member under the token that is held. If etcd does not take it, it did nothing that was asked: so it is
    /// asked once more under a new one.
    async fn signed<Q, A>(
        &self,
        login: &Login,
        member: usize,
        path: &'static str,
        request: Q,
    ) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let token = self.token(member).await?;
        let answer = self.call(member, path, login::under(token.as_ref(), request.clone())).await;
        let answer = match answer {
            Err(status) if login::is_stale(&status) => {
                match token {
                    Some(token) => login.forget(&token).await,
                    None => login.ask_again().await,
                }
                let token = self.token(member).await?;
                self.call(member, path, login::under(token.as_ref(), request)).await
            }
            answer => answer,
        };
        answer.map_err(|status| fault(&self.name, &status))
    }

    /// The token to ask under, fetched from a member when none is held; nothing was asked yet when that fails.
    async fn token(&self, member: usize) -> Result<Option<Token>, Fault> {
        let Some(login) = &self.login else { return Ok(None) };
        let ask = |request: AuthenticateRequest| {
            let path = "/etcdserverpb.Auth/Authenticate";
            self.call::<_, AuthenticateResponse>(member, path, Request::new(request))
        };
        let unasked = |status: Status| match fault(&self.name, &status) {
            Fault::Lost(reason) => Fault::Unsent(reason),
            fault => fault,
        };
        // Whoever waits for the token that another fetches does not wait for longer than for his own.
        match tokio::time::timeout(self.try_timeout, login.token(ask)).await {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(login::Refused::Status(status))) => Err(unasked(status)),
            Ok(Err(login::Refused::Denied(error))) => Err(Fault::Refused(error)),
            Err(_) => Err(unasked(self.late())),
        }
    }

    async fn call<Q, A>(&self, member: usize, path: &'static str, request: Request<Q>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.members[member].clone();
        let call = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(request, PathAndQuery::from_static(path), codec).await
        };
        self.in_time(call).await.map(tonic::Response::into_inner)
    }

    /// Whoever is late may still do what he was asked.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        tokio::time::timeout(self.try_timeout, call).await.unwrap_or_else(|_| Err(self.late()))
    }

    fn late(&self) -> Status {
        Status::deadline_exceeded(format!("no answer within {:?}", self.try_timeout))
    }
}

/// What an error of etcd, or of the way to it, means for what was asked.
fn fault(name: &Arc<str>, status: &Status) -> Fault {
    let text: Arc<str> = explain(name, status).into();
    let (file, reason) = (name.clone(), status.message().into());
    match status.code() {
        Code::OutOfRange => Fault::Forgotten,
        Code::Unavailable if unconnected(status) => Fault::Unsent(text),
        Code::ResourceExhausted if status.message().contains("too many requests") => Fault::Unsent(text),
        Code::ResourceExhausted if status.message().contains("message") => {
            Fault::Refused(Error::TooLarge(text))
        }
        Code::PermissionDenied | Code::Unauthenticated => Fault::Refused(Error::Denied { file, reason }),
        _ if login::is_stale(status) => Fault::Refused(Error::Denied { file, reason }),
        Code::ResourceExhausted | Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition => {
            Fault::Refused(Error::Unavailable { file, reason })
        }
        _ => Fault::Lost(text),
    }
}

/// Whether there was no connection to send anything over.
fn unconnected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Reads the files by which TLS is spoken, or says which cannot be read.
fn read_tls(tls: &EtcdTls) -> Result<ClientTlsConfig, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let ca = read(&tls.ca)?;
    if !ca.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) {
        return Err(format!("{} has no certificate in PEM", tls.ca.display()));
    }
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    Ok(match &tls.client {
        Some((certificate, key)) => config.identity(Identity::from_pem(read(certificate)?, read(key)?)),
        None => config,
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The innermost reason, which is the one that says something.
fn explain(name: &str, status: &Status) -> String {
    let Some(source) = status.source() else { return format!("{name}: {}", status.message()) };
    format!("{name}: {}", innermost(source))
}

/// Reads a range to its end at one revision of etcd, page by page.
pub(super) struct Pager {
    next: Option<Bytes>,
    end: Bytes,
    at: i64,
    rows: i64,
}

impl Pager {
    pub(super) fn new(from: Bytes, end: Bytes, at: i64) -> Self {
        Self { next: Some(from), end, at, rows: PAGE_ROWS }
    }

    /// At most `limit` rows that come next; none at the end.
    pub(super) async fn next(
        &mut self,
        client: &Client,
        limit: usize,
        until: Instant,
    ) -> Result<Vec<KeyValue>, Fault> {
        let Some(from) = self.next.clone() else { return Ok(Vec::new()) };
        let rows = self.rows.min(i64::try_from(limit).unwrap_or(i64::MAX));
        let range = RangeRequest::range(from, self.end.clone()).at(self.at).first(rows);
        let answer = client.range(range, until).await?;
        let bytes = answer.encoded_len();
        if bytes < PAGE_BYTES / 2 {
            self.rows = (self.rows * 2).min(PAGE_ROWS_MAX);
        } else if bytes > PAGE_BYTES * 2 {
            self.rows = (self.rows / 2).max(1);
        }
        self.next =
            answer.kvs.last().filter(|_| answer.more).map(|row| [&row.key[..], b"\0"].concat().into());
        Ok(answer.kvs)
    }
}
