//! Where a message goes: through the bind of its receiver, to its code, or to its content.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::Sockets;
use gateway::portal::unserved;
use mechtron_host::{Caller, Host, NotHere};
use resource_registry::files;
use resource_registry::{BlobStore, Registry};
use starlane_core::{Action, Pipeline, socket};
use starlane_core::{
    Base, Blob, Body, Code, Header, Headers, Message, MethodFamily, NodeName, Outcome, Payload, Phase, Point,
    Refusal, Reply, Request, Resource,
};

use super::artifacts::Artifacts;
use super::fresh::{find_by, latest};
use super::homes::{Home, Homes};
use super::ids::Ids;
use super::links::{Arrival, Links};
use super::serving::{Serving, is_served};

/// The longest content that a check of a bind looks into.
const CHECKED_BYTES_MAX: u64 = 1024 * 1024;
/// How long the host may take to hear where a mechtron lives.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The status by which a WebSocket is accepted.
const SWITCHING: u16 = 101;
/// The header of a reply that accepts a WebSocket: who did. It goes no further than to the door.
const ANSWERED_BY: &str = "starlane-answered-by";
/// The longest content that is handed to a mechtron, as a request or as an answer.
pub(super) const GUEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Finds the way of each message. A bind is walked where the message entered the mesh; the code of a resource is asked on
/// the node that it lives on. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Router(Arc<Parts>);

/// What a router is made from.
pub(super) struct Parts {
    pub(super) registry: Registry,
    pub(super) blobs: BlobStore,
    pub(super) artifacts: Artifacts,
    pub(super) host: Host,
    pub(super) homes: Homes,
    pub(super) links: Links,
    pub(super) ids: Arc<Ids>,
    pub(super) serving: Serving,
    /// This node.
    pub(super) me: NodeName,
    /// The WebSockets of this node.
    pub(super) sockets: Sockets,
    /// Where messages that need time go on.
    pub(super) runtime: tokio::runtime::Handle,
}

impl Router {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Brings a request to its receiver and the outcome back, by the time the request has left. One that goes straight to
    /// code is on its way when this returns, so that requests between two points keep their order.
    pub(super) fn request(&self, message: Message) -> BoxFuture<'static, Outcome> {
        match self.straight(&message) {
            Some(resource) if resource.property("bind").is_none() => self.hand_on(message, &resource),
            None if let Some(node) = socket::node_of(&message.header.to) => self.push(node, message),
            _ => self.slowly(message),
        }
    }

    /// Brings the request of a client that wants a WebSocket to its receiver; tells with the outcome whose answer it is.
    pub(super) async fn upgrade(&self, message: Message) -> (Outcome, Point) {
        let asked = message.header.to.clone();
        let mut outcome = in_time(message.header.remaining, self.route(message)).await;
        let mut by = None;
        if let Outcome::Ok(reply) = &mut outcome {
            by = reply.headers.get(ANSWERED_BY).and_then(|point| point.parse().ok());
            reply.headers.remove(ANSWERED_BY);
        }
        (outcome, by.unwrap_or(asked))
    }

    /// Brings a request to a WebSocket, here or on another node. It is on its way when this returns.
    fn push(&self, node: NodeName, message: Message) -> BoxFuture<'static, Outcome> {
        let at_hand = matches!(&message.payload, Payload::Request(Request { body: Body::Bytes(_), .. }));
        let is_known = node == self.0.me || self.knows_node(&node);
        if at_hand && is_known {
            return self.push_at_once(&node, message);
        }
        let router = self.clone();
        Box::pin(async move {
            let Message { mut header, payload: Payload::Request(mut request) } = message else {
                return Outcome::Rejected(Refusal::new(Code::Usage, "only a request can be answered"));
            };
            let begun = Instant::now();
            if let Err(refusal) = router.find_node(&node, &header.to).await {
                return Outcome::Rejected(refusal);
            }
            request.body = match router.at_hand(request.body).await {
                Ok(body) => body,
                Err(refusal) => return Outcome::Rejected(refusal),
            };
            header.remaining = header.remaining.saturating_sub(begun.elapsed());
            router.push_at_once(&node, Message { header, payload: Payload::Request(request) }).await
        })
    }

    fn push_at_once(&self, node: &NodeName, mut message: Message) -> BoxFuture<'static, Outcome> {
        if *node == self.0.me {
            return std::future::ready(self.0.sockets.request(message)).boxed();
        }
        match message.header.hops_left.checked_sub(1) {
            Some(hops_left) => {
                message.header.hops_left = hops_left;
                self.0.links.handle.request(node.id(), message).boxed()
            }
            None => std::future::ready(Outcome::Rejected(moves(&message.header.to))).boxed(),
        }
    }

    fn knows_node(&self, node: &NodeName) -> bool {
        node.point().is_some_and(|point| self.0.registry.get(&point).is_some())
    }

    /// Makes sure that the mesh has a node, whose WebSocket is at a point.
    ///
    /// # Errors
    /// `E-NOT-FOUND`, or `E-UNREACHABLE` when it is not known here and cannot be asked for.
    async fn find_node(&self, node: &NodeName, socket: &Point) -> Result<(), Refusal> {
        let Some(point) = node.point() else { return Err(nothing(socket)) };
        match self.find(&point).await {
            Err(refusal) if refusal.code == Code::NotFound => Err(nothing(socket)),
            found => found.map(drop),
        }
    }

    /// Brings a request that came from another node to the code that it was sent to, past any bind. It computes nothing
    /// where it is called.
    pub(super) fn arrived(&self, message: Message, arrival: Arrival) {
        if let Some(resource) = self.straight(&message)
            && self.is_home_of_resource(&resource)
        {
            if has_code(&resource) {
                let asks = Asks { router: self.clone(), resource, arrival };
                return self.0.host.call(message, asks);
            }
            return arrival.when(self.ask_service(message, &resource));
        }
        if socket::node_of(&message.header.to).is_some_and(|node| node == self.0.me) {
            return arrival.give(self.0.sockets.request(message));
        }
        let router = self.clone();
        let received = async move { in_time(message.header.remaining, router.receive(message)).await };
        arrival.on(&self.0.runtime, received);
    }

    /// What a request is for, when nothing has to be looked up or read to hand it on.
    fn straight(&self, message: &Message) -> Option<Arc<Resource>> {
        let Payload::Request(Request { body: Body::Bytes(_), .. }) = &message.payload else { return None };
        let resource = self.0.registry.get(&message.header.to)?;
        (has_code(&resource) || is_served(&resource)).then_some(resource)
    }

    /// Whether who answers for a resource is here: its code, or a service.
    fn is_home_of_resource(&self, resource: &Arc<Resource>) -> bool {
        match has_code(resource) {
            true => self.0.homes.of(resource) == Home::Here,
            false => self.0.serving.pools().serves(&resource.point),
        }
    }

    /// Hands a request on to where its receiver's code is, at once.
    fn hand_on(&self, message: Message, resource: &Arc<Resource>) -> BoxFuture<'static, Outcome> {
        if !has_code(resource) {
            return self.ask_service(message, resource);
        }
        match self.0.homes.of(resource) {
            Home::There(node) => self.0.links.handle.request(node.id(), message).boxed(),
            Home::Here => {
                let asked = self.0.host.request(message);
                let (router, resource) = (self.clone(), resource.clone());
                async move {
                    match asked.await {
                        Ok(outcome) => outcome,
                        Err(NotHere(message)) => router.elsewhere(*message, resource).await,
                    }
                }
                .boxed()
            }
            Home::Nowhere => {
                let (router, resource) = (self.clone(), resource.clone());
                async move { router.at_home(message, resource).await }.boxed()
            }
        }
    }

    /// Asks a service, here or on another node.
    fn ask_service(&self, mut message: Message, resource: &Resource) -> BoxFuture<'static, Outcome> {
        let refusal = match self.0.serving.home(resource) {
            Some(Home::Here) => return self.0.serving.pools().request(message).boxed(),
            Some(Home::There(node)) => match message.header.hops_left.checked_sub(1) {
                Some(hops_left) => {
                    message.header.hops_left = hops_left;
                    return self.0.links.handle.request(node.id(), message).boxed();
                }
                None => moves(&resource.point),
            },
            Some(Home::Nowhere) | None => unserved(&resource.point),
        };
        std::future::ready(Outcome::Rejected(refusal)).boxed()
    }

    /// Goes on with a request that came to a host which its receiver does not live on.
    async fn elsewhere(&self, mut message: Message, resource: Arc<Resource>) -> Outcome {
        let begun = Instant::now();
        let known = self.look_again(&message, &resource);
        let Ok(is_fresh) = tokio::time::timeout(message.header.remaining, known).await else {
            return Outcome::Rejected(left(&message.header.to));
        };
        message.header.remaining = message.header.remaining.saturating_sub(begun.elapsed());
        if let Err(refusal) = goes_on(&mut message.header, is_fresh) {
            return Outcome::Rejected(refusal);
        }
        self.rename(&mut message.header);
        match self.resource(&message.header.to) {
            Ok(resource) => Box::pin(self.at_home(message, resource)).await,
            Err(refusal) => Outcome::Rejected(refusal),
        }
    }

    /// Gives a request that goes on from here an id of its own: where it goes it may have been before, when its receiver went to
    /// and fro, so that it is waited for there under the old one. Its trace stays.
    fn rename(&self, header: &mut Header) {
        header.id = self.0.ids.next();
    }

    /// Learns where a mechtron lives that was not where it seemed to live. Tells whether the registry said so.
    async fn look_again(&self, message: &Message, seemed: &Resource) -> bool {
        let point = &message.header.to;
        let waits = self.0.homes.wait(message);
        // Who lives where is known better by the registry than here; when it is out of reach, what is here has to do.
        let is_fresh = self.0.registry.fresh().await.is_ok();
        if let Some(now) = self.0.registry.get(point)
            && now.modified == seemed.modified
            && self.0.homes.of(&now) == Home::Here
        {
            // The host may not have been told yet. It takes this in its turn, before what comes after it.
            self.0.host.swap(point);
            _ = tokio::time::timeout(LOOK_AGAIN, waits).await;
        }
        is_fresh
    }

    /// Asks the code of a resource where it lives, when it lives somewhere.
    async fn at_home(&self, mut message: Message, mut resource: Arc<Resource>) -> Outcome {
        while self.0.homes.of(&resource) == Home::Nowhere {
            if let Err(refusal) = self.placed(&mut message).await {
                return Outcome::Rejected(refusal);
            }
            // It may go back to the node that it came from.
            self.rename(&mut message.header);
            resource = match self.resource(&message.header.to) {
                Ok(resource) => resource,
                Err(refusal) => return Outcome::Rejected(refusal),
            };
        }
        self.hand_on(message, &resource).await
    }

    /// Waits until something changes about a receiver that lives nowhere, in the message's own time.
    async fn placed(&self, message: &mut Message) -> Result<(), Refusal> {
        let begun = Instant::now();
        let waits = self.0.homes.wait(message);
        // It may have been placed before this began to wait.
        let now = self.0.registry.get(&message.header.to);
        if now.is_none_or(|now| self.0.homes.of(&now) == Home::Nowhere) {
            waits.await?;
        }
        message.header.remaining = message.header.remaining.saturating_sub(begun.elapsed());
        Ok(())
    }

    /// Brings a request from another node to its receiver, when it is not at hand.
    async fn receive(&self, mut message: Message) -> Outcome {
        let begun = Instant::now();
        let to = message.header.to.clone();
        let answers = |resource: &Resource| has_code(resource) || is_served(resource);
        let is_here = |resource: &Arc<Resource>| !answers(resource) || self.is_home_of_resource(resource);
        let mut fresh = None;
        if self.0.registry.get(&to).is_none_or(|resource| !is_here(&resource)) {
            // Whoever sent it or this node is behind.
            fresh = Some(latest(&self.0.registry).await);
        }
        let is_fresh = matches!(fresh, Some(Ok(())));
        let resource = match (self.known(&to), fresh) {
            (Some(resource), _) => resource,
            (None, Some(Err(problem))) => return Outcome::Rejected(refusal(problem)),
            (None, _) => return Outcome::Rejected(nothing(&to)),
        };
        if has_code(&resource) && matches!(self.0.homes.of(&resource), Home::There(_)) {
            // Between two nodes that both cannot ask, it would go to and fro.
            if !is_fresh {
                return Outcome::Rejected(left(&to));
            }
            message.header.hops_left = Header::HOPS_MAX;
            self.rename(&mut message.header);
        }
        message.header.remaining = message.header.remaining.saturating_sub(begun.elapsed());
        match message {
            Message { header, payload: Payload::Request(request) } => {
                self.own(header, request, &resource).await
            }
            _ => Outcome::Rejected(Refusal::new(Code::Usage, "only a request can be answered")),
        }
    }

    /// Brings a request to its receiver, through its bind if it has one.
    fn slowly(&self, message: Message) -> BoxFuture<'static, Outcome> {
        let router = self.clone();
        Box::pin(async move { in_time(message.header.remaining, router.route(message)).await })
    }

    /// Brings a message without answer to its receiver.
    ///
    /// # Errors
    /// When it surely does not arrive. That it arrives is not known where a bind or a file is asked.
    pub(super) async fn send(&self, message: Message) -> Result<(), Refusal> {
        if self.has_own_code(&message).await? {
            return self.send_home(message).await;
        }
        let Message { header, payload: Payload::Signal(signal) } = message else {
            return Err(Refusal::new(Code::Usage, "only a signal can be sent"));
        };
        let request = Message { header, payload: Payload::Request(signal) };
        match self.request(request).await {
            Outcome::Ok(_) => Ok(()),
            Outcome::Rejected(refusal) | Outcome::Failed(refusal) | Outcome::Unknown(refusal) => Err(refusal),
        }
    }

    /// Whether the code of a point lives here.
    pub(super) fn is_home_of(&self, point: &Point) -> bool {
        if let Some(node) = socket::node_of(point) {
            return node == self.0.me;
        }
        self.0.registry.get(point).is_some_and(|resource| self.is_home_of_resource(&resource))
    }

    /// Whether the code of a point lives somewhere, so that [`Router::send_home`] does not wait.
    pub(super) fn knows_home(&self, point: &Point) -> bool {
        if socket::node_of(point).is_some() {
            return true;
        }
        let knows =
            |resource: Arc<Resource>| !has_code(&resource) || self.0.homes.of(&resource) != Home::Nowhere;
        self.0.registry.get(point).is_some_and(knows)
    }

    /// Sends a message without answer to where the code of its receiver is.
    ///
    /// # Errors
    /// When it surely does not arrive.
    pub(super) async fn send_home(&self, mut message: Message) -> Result<(), Refusal> {
        if let Some(node) = socket::node_of(&message.header.to) {
            return self.tell_socket(&node, message).await;
        }
        loop {
            let resource = self.find(&message.header.to).await?;
            if !has_code(&resource) {
                return self.tell_service(message, &resource);
            }
            match self.0.homes.of(&resource) {
                Home::Here => return self.0.host.send(message),
                Home::There(node) => return self.0.links.handle.send(node.id(), message),
                Home::Nowhere => {}
            }
            self.placed(&mut message).await?;
        }
    }

    /// Sends a message without answer to a WebSocket, here or on another node.
    async fn tell_socket(&self, node: &NodeName, message: Message) -> Result<(), Refusal> {
        let Message { mut header, payload: Payload::Signal(mut signal) } = message else {
            return Err(Refusal::new(Code::Usage, "only a signal can be sent"));
        };
        signal.body = self.at_hand(signal.body).await?;
        if *node == self.0.me {
            return self.0.sockets.send(Message { header, payload: Payload::Signal(signal) });
        }
        self.find_node(node, &header.to).await?;
        header.hops_left = header.hops_left.checked_sub(1).ok_or_else(|| moves(&header.to))?;
        self.0.links.handle.send(node.id(), Message { header, payload: Payload::Signal(signal) })
    }

    /// Sends a message without answer to a service, here or on another node.
    fn tell_service(&self, mut message: Message, resource: &Resource) -> Result<(), Refusal> {
        match self.0.serving.home(resource) {
            Some(Home::Here) => self.0.serving.pools().send(message),
            Some(Home::There(node)) => {
                let hops_left = message.header.hops_left.checked_sub(1);
                message.header.hops_left = hops_left.ok_or_else(|| moves(&resource.point))?;
                self.0.links.handle.send(node.id(), message)
            }
            Some(Home::Nowhere) | None => Err(unserved(&resource.point)),
        }
    }

    /// Goes on with a message without answer that came to a host which its receiver does not live on.
    ///
    /// # Errors
    /// When it surely does not arrive.
    pub(super) async fn send_elsewhere(&self, mut message: Message) -> Result<(), Refusal> {
        let (begun, to) = (Instant::now(), message.header.to.clone());
        let seemed = self.find(&to).await?;
        let is_fresh = self.look_again(&message, &seemed).await;
        let now = self.resource(&to)?;
        if !is_fresh && matches!(self.0.homes.of(&now), Home::There(_)) {
            // Between two nodes that both cannot ask, it would go to and fro.
            return Err(left(&to));
        }
        goes_on(&mut message.header, is_fresh)?;
        message.header.remaining = message.header.remaining.saturating_sub(begun.elapsed());
        self.send_home(message).await
    }

    /// Whether a message goes straight to its receiver's own code, past any bind.
    ///
    /// # Errors
    /// When nothing is there, or its bind cannot be read.
    pub(super) async fn has_own_code(&self, message: &Message) -> Result<bool, Refusal> {
        if socket::node_of(&message.header.to).is_some() {
            return Ok(true);
        }
        let resource = self.find(&message.header.to).await?;
        let bind = self.0.artifacts.bind_of(&resource).await?;
        let answers = has_code(&resource) || is_served(&resource);
        Ok(answers && !bind.is_some_and(|bind| bind.has_rules_for(family(message))))
    }

    async fn route(&self, message: Message) -> Outcome {
        let begun = Instant::now();
        let Message { mut header, payload: Payload::Request(request) } = message else {
            return Outcome::Rejected(Refusal::new(Code::Usage, "only a request can be answered"));
        };
        if let Some(node) = socket::node_of(&header.to) {
            return self.push(node, Message { header, payload: Payload::Request(request) }).await;
        }
        let resource = match self.find(&header.to).await {
            Ok(resource) => resource,
            Err(refusal) => return Outcome::Rejected(refusal),
        };
        let bind = self.0.artifacts.bind_of(&resource).await;
        header.remaining = header.remaining.saturating_sub(begun.elapsed());
        match bind {
            Err(refusal) => Outcome::Rejected(refusal),
            // A bind that says nothing of messages leaves them to the resource's own code.
            Ok(Some(bind))
                if request.method.family != MethodFamily::Ext || bind.has_rules_for(MethodFamily::Ext) =>
            {
                match bind.route(&request.method, &request.path) {
                    Ok(Some(route)) => self.walk(header, route.start(request), &resource).await,
                    Ok(None) => Outcome::Rejected(no_rule(&resource, &request)),
                    Err(problem) => Outcome::Rejected(refusal(problem)),
                }
            }
            Ok(_) => self.own(header, request, &resource).await,
        }
    }

    /// Goes through the stops of a rule.
    async fn walk(&self, header: Header, mut pipeline: Pipeline, resource: &Arc<Resource>) -> Outcome {
        let Some(hops_left) = header.hops_left.checked_sub(1) else {
            return Outcome::Rejected(Refusal::new(
                Code::CycleDetected,
                "the binds on the way lead in a circle",
            ));
        };
        let begun = Instant::now();
        loop {
            if let Some(blob) = pipeline.to_read() {
                match self.read(&blob, CHECKED_BYTES_MAX, "a check of a bind looks into").await {
                    Ok(bytes) => pipeline.read(bytes),
                    Err(refusal) => return Outcome::Rejected(refusal),
                }
            }
            let mut header = header.clone();
            header.hops_left = hops_left;
            header.remaining = header.remaining.saturating_sub(begun.elapsed());
            let outcome = match pipeline.next() {
                Action::Ask { to, method, path, headers, body } => {
                    header.to = to;
                    let payload = Payload::Request(Request { method, path, headers, body });
                    // Boxed, since a bind may lead to another bind.
                    Box::pin(self.route(Message { header, payload })).await
                }
                Action::Own { method, path, headers, body } => {
                    self.own(header, Request { method, path, headers, body }, resource).await
                }
                Action::Answer(reply) => return Outcome::Ok(reply),
                Action::Refuse(problem) => return Outcome::Rejected(refusal(problem)),
            };
            match outcome {
                Outcome::Ok(reply) => pipeline.answer(reply),
                other => return other,
            }
        }
    }

    /// Asks the resource's own code, or answers its content.
    async fn own(&self, mut header: Header, mut request: Request, resource: &Arc<Resource>) -> Outcome {
        if has_code(resource) || is_served(resource) {
            let begun = Instant::now();
            request.body = match self.at_hand(request.body).await {
                Ok(body) => body,
                Err(refusal) => return Outcome::Rejected(refusal),
            };
            header.remaining = header.remaining.saturating_sub(begun.elapsed());
            let message = Message { header, payload: Payload::Request(request) };
            let mut outcome = match has_code(resource) {
                true => self.at_home(message, resource.clone()).await,
                false => self.ask_service(message, resource).await,
            };
            // Who accepts a WebSocket gets its messages, whatever bind led there.
            if let Outcome::Ok(reply) = &mut outcome
                && reply.status == SWITCHING
            {
                reply.headers.set(ANSWERED_BY, resource.point.as_str());
            }
            return outcome;
        }
        match resource.kind.base {
            Base::File | Base::Artifact => self.content(&request, &header.to),
            Base::FileSystem if request.method.family == MethodFamily::Http => {
                let path = request.path.split('?').next().unwrap_or("/");
                match resource.point.join_path(path) {
                    Ok(point) => self.content(&request, &point),
                    Err(error) => Outcome::Rejected(Refusal::new(Code::PointSyntax, error.reason)),
                }
            }
            Base::Portal => Outcome::Rejected(unserved(&resource.point)),
            _ if resource.status.phase == Phase::Pending => Outcome::Rejected(unserved(&resource.point)),
            _ => Outcome::Rejected(no_code(resource)),
        }
    }

    /// A body as a mechtron can take it.
    ///
    /// # Errors
    /// When it has more than [`GUEST_BYTES_MAX`] bytes, or cannot be read.
    pub(super) async fn at_hand(&self, body: Body) -> Result<Body, Refusal> {
        match body {
            Body::Blob(blob) => self.read(&blob, GUEST_BYTES_MAX, "a mechtron takes").await.map(Body::Bytes),
            bytes => Ok(bytes),
        }
    }

    async fn read(&self, blob: &Blob, bytes_max: u64, who: &str) -> Result<Bytes, Refusal> {
        if blob.bytes > bytes_max {
            let detail =
                format!("the content has {} bytes, more than the {bytes_max} that {who}", blob.bytes);
            return Err(Refusal::new(Code::TooLarge, detail));
        }
        self.0.blobs.read(blob, bytes_max).await.map_err(|error| refusal(error.into()))
    }

    fn content(&self, request: &Request, point: &Point) -> Outcome {
        let readable = request.method.family == MethodFamily::Http
            && matches!(request.method.name.as_str(), "Get" | "Head");
        if !readable {
            let mut reply = Reply::new(405, "text/plain; charset=utf-8", "files are read with GET\n");
            reply.headers.set("allow", "GET, HEAD");
            return Outcome::Ok(reply);
        }
        match files::open(&self.0.registry, point) {
            Ok(content) => {
                let mut headers = Headers::default();
                headers.set("content-type", &content.content_type);
                headers.set("etag", &format!("\"{}\"", content.etag));
                let modified = UNIX_EPOCH + Duration::from_millis(content.modified.0);
                headers.set("last-modified", &httpdate::fmt_http_date(modified));
                if !point.is_directory() && self.0.registry.get(point).is_none() {
                    headers.set(gateway::IS_DIRECTORY, "true");
                }
                Outcome::Ok(Reply { status: 200, headers, body: Body::Blob(content.blob) })
            }
            Err(error) => Outcome::Rejected(refusal(error)),
        }
    }

    /// The resource that a message to a point is for, asked for when it is not known here.
    ///
    /// # Errors
    /// `E-NOT-FOUND` when nothing is there, `E-UNREACHABLE` when that cannot be asked.
    async fn find(&self, point: &Point) -> Result<Arc<Resource>, Refusal> {
        let found = find_by(&self.0.registry, || self.known(point)).await.map_err(refusal)?;
        found.ok_or_else(|| nothing(point))
    }

    /// The resource that a message to a point is for, as it is known here.
    fn resource(&self, point: &Point) -> Result<Arc<Resource>, Refusal> {
        self.known(point).ok_or_else(|| nothing(point))
    }

    fn known(&self, point: &Point) -> Option<Arc<Resource>> {
        self.0.registry.get(point).or_else(|| {
            // A directory, written without its `/`.
            point.path().filter(|_| !point.is_directory())?;
            self.0.registry.get(&format!("{point}/").parse().ok()?)
        })
    }
}

/// A request from another node, with a mechtron of this one.
struct Asks {
    router: Router,
    resource: Arc<Resource>,
    arrival: Arrival,
}

impl Caller for Asks {
    fn asked(&self, give_up: Box<dyn FnOnce() + Send>) {
        self.arrival.end_by(give_up);
    }

    fn answer(self: Box<Self>, answer: Result<Outcome, NotHere>) {
        let Self { router, resource, arrival } = *self;
        match answer {
            Ok(outcome) => arrival.give(outcome),
            Err(NotHere(message)) => {
                let runtime = router.0.runtime.clone();
                arrival.on(&runtime, async move { router.elsewhere(*message, resource).await });
            }
        }
    }
}

fn nothing(point: &Point) -> Refusal {
    Refusal::new(Code::NotFound, format!("nothing is at `{point}`"))
}

/// A message goes on from a node that its receiver left. When the registry itself said where that is, it goes there as from the
/// beginning: it can meet one that moves for as long as it has time.
///
/// # Errors
/// `E-NOT-READY` when it went on too often by what nodes knew that cannot ask.
fn goes_on(header: &mut Header, is_fresh: bool) -> Result<(), Refusal> {
    header.hops_left = match is_fresh {
        true => Header::HOPS_MAX,
        false => header.hops_left.checked_sub(1).ok_or_else(|| left(&header.to))?,
    };
    Ok(())
}

/// The answer when a message crossed as many nodes as it may, and its receiver is none of them.
fn moves(point: &Point) -> Refusal {
    Refusal::new(Code::NotReady, format!("`{point}` is on its way from node to node: try again"))
}

/// The answer when a message came to a node that its receiver left, and that cannot ask where it lives now.
fn left(point: &Point) -> Refusal {
    let detail =
        format!("`{point}` is not on this node, which cannot ask the registry where it is: try again");
    Refusal::new(Code::NotReady, detail)
}

/// The outcome, if it comes in time.
async fn in_time(remaining: Duration, outcome: impl Future<Output = Outcome>) -> Outcome {
    let late = |_| Outcome::Unknown(Refusal::new(Code::Timeout, "no answer came before the deadline"));
    tokio::time::timeout(remaining, outcome).await.unwrap_or_else(late)
}

/// Whether messages to the resource can run code.
pub(super) fn has_code(resource: &Resource) -> bool {
    resource.property("wasm.src").is_some()
}

pub(super) fn refusal(problem: starlane_core::Problem) -> Refusal {
    Refusal::new(problem.code, problem.detail)
}

fn family(message: &Message) -> MethodFamily {
    match &message.payload {
        Payload::Request(request) | Payload::Signal(request) => request.method.family,
        Payload::Reply(_) => MethodFamily::Cmd,
    }
}

fn no_rule(resource: &Resource, request: &Request) -> Refusal {
    let method = &request.method;
    Refusal::new(
        Code::NoRoute,
        format!("no rule of the bind of `{}` is for {method}{}", resource.point, request.path),
    )
}

fn no_code(resource: &Resource) -> Refusal {
    let (point, kind) = (&resource.point, &resource.kind);
    Refusal::new(Code::NoRoute, format!("`{point}<{kind}>` has neither a bind nor code that could answer"))
}

#[cfg(test)]
mod tests {
    use starlane_core::{Agent, MessageId};

    use super::*;

    /// Each move of a receiver costs a message as many hops as there are nodes between the two.
    #[test]
    fn a_receiver_may_move_as_often_as_it_likes_while_the_registry_says_where_to() {
        let point: Point = "shop:cart".parse().unwrap();
        let (id, by) = (MessageId(1), Agent(point.clone()));
        let mut header = Header::new(id, point.clone(), point, by, Duration::from_secs(1));
        header.hops_left = 1;
        goes_on(&mut header, false).unwrap();
        let refused = goes_on(&mut header, false).unwrap_err();
        assert_eq!((refused.code, header.hops_left), (Code::NotReady, 0));
        goes_on(&mut header, true).unwrap();
        assert_eq!(header.hops_left, Header::HOPS_MAX);
    }
}
