//! The client: a handle on the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use starlane_core::portal::{Answer, HeaderPairs};
use starlane_core::{Kind, Point};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::Problem;
use crate::link::{COMMANDS_MAX, Command, Link, Operation, Watching};
use crate::service::Failed;
use crate::watch::STEPS_MAX;
use crate::{Call, Config, Error, Incoming, Reply, Topic, Watch};

/// So much longer than the node's deadline its answer is waited for.
const ON_THE_WAY: Duration = Duration::from_secs(2);

/// A process in the mesh. Clones are the same; with the last of them, and of its watches and topics, it leaves.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    timeout: Duration,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl Client {
    /// Joins the mesh at one of the nodes of the configuration. From then on a connection that breaks is made again.
    ///
    /// # Errors
    /// [`Error::Connect`] when no node is in reach, or the token is not valid.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        if config.nodes.is_empty() {
            return Err(Error::Connect("no node is named to connect to".to_owned()));
        }
        for node in &config.nodes {
            Config::portal(node)?;
        }
        let (commands, taken) = mpsc::channel(COMMANDS_MAX);
        let (first, told) = oneshot::channel();
        let timeout = config.timeout;
        tokio::spawn(Link::new(config, commands.downgrade()).run(taken, first));
        told.await.map_err(|_| Error::Closed)??;
        Ok(Self { commands, timeout })
    }

    /// Asks a point and waits for the answer, whatever its status.
    ///
    /// # Errors
    /// How it ended instead: see [`Error`].
    pub async fn request(&self, to: impl AsRef<str>, call: Call) -> Result<Reply, Error> {
        let patience = call.patience(self.timeout);
        let operation = Operation::Request(point(to.as_ref())?, call);
        let (Answer { status, headers, .. }, body) = self.ask(operation, patience).await?;
        Ok(Reply { status, headers, body })
    }

    /// Tells a point something; done when it is on its way. What is told to one point by this client arrives in order.
    ///
    /// # Errors
    /// When it surely does not arrive, or the connection broke first.
    pub async fn send(&self, to: impl AsRef<str>, call: Call) -> Result<(), Error> {
        let patience = call.patience(self.timeout);
        self.ask(Operation::Send(point(to.as_ref())?, call), patience).await.map(drop)
    }

    /// Tells all who subscribe to a topic something; done when it is on its way.
    ///
    /// # Errors
    /// When nothing is at the topic's point, or the connection broke first.
    pub async fn publish(&self, topic: impl AsRef<str>, call: Call) -> Result<(), Error> {
        let patience = call.patience(self.timeout);
        self.ask(Operation::Publish(point(topic.as_ref())?, call), patience).await.map(drop)
    }

    /// Hears what is published to a topic, a resource of any kind, from now on.
    ///
    /// # Errors
    /// When nothing is at the point.
    pub async fn subscribe(&self, topic: impl AsRef<str>) -> Result<Topic, Error> {
        let topic = point(topic.as_ref())?;
        let (sender, events) = mpsc::channel(STEPS_MAX as usize);
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Subscribe { topic, events: sender, answer }).await?;
        let id = answered.await.map_err(|_| Error::Closed)??;
        Ok(Topic { id, events, commands: self.commands.clone(), taken: 0 })
    }

    /// Watches what a selector means: the list, and then its changes.
    ///
    /// # Errors
    /// [`Error::Closed`]. What the node refuses ends the watch: see [`Watch::failure`].
    pub async fn watch(&self, selector: &str) -> Result<Watch, Error> {
        self.watch_from(selector, None).await
    }

    /// Goes on with a watch after the step that had this token, also in another process and at another node.
    ///
    /// # Errors
    /// As [`Client::watch`].
    pub async fn watch_since(&self, selector: &str, token: &str) -> Result<Watch, Error> {
        self.watch_from(selector, Some(token.to_owned())).await
    }

    async fn watch_from(&self, selector: &str, since: Option<String>) -> Result<Watch, Error> {
        let (sender, steps) = mpsc::channel(STEPS_MAX as usize);
        let failed = Arc::default();
        let token = since.clone().unwrap_or_default();
        let watching = Watching {
            select: selector.to_owned(),
            since,
            stale: false,
            steps: sender,
            failed: Arc::clone(&failed),
        };
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Watch(watching, answer)).await?;
        let id = answered.await.map_err(|_| Error::Closed)?;
        Ok(Watch { id, steps, commands: self.commands.clone(), taken: 0, token, failed })
    }

    /// Answers the messages of a point, together with all others who serve it, until [`Client::unserve`] or the client's end.
    /// With a kind, the resource is made when it is not there. What the handler returns for a message that wants no answer is
    /// dropped. Not more messages are handled at a time than [`Config::concurrency`] says.
    ///
    /// # Errors
    /// When the point cannot be served.
    pub async fn serve<F, A>(&self, at: impl AsRef<str>, kind: Option<&str>, handler: F) -> Result<(), Error>
    where
        F: Fn(Incoming) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply, Failed>> + Send + 'static,
    {
        let kind = kind.map(self::kind).transpose()?;
        let (answer, answered) = oneshot::channel();
        let handler = Arc::new(move |incoming| handler(incoming).boxed());
        self.tell(Command::Serve { point: point(at.as_ref())?, kind, handler, answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Serves a point no more; what was begun is still answered.
    ///
    /// # Errors
    /// [`Error::Closed`]
    pub async fn unserve(&self, at: impl AsRef<str>) -> Result<(), Error> {
        self.tell(Command::Unserve(point(at.as_ref())?)).await
    }

    /// A call of the `/v1` API: its answer, whatever its status. For what has no function of its own here.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn call(
        &self,
        method: &'static str,
        path: impl Into<String>,
        headers: HeaderPairs,
        body: impl Into<Bytes>,
    ) -> Result<Reply, Error> {
        let operation = Operation::Api { method, path: path.into(), headers, body: body.into() };
        let (Answer { status, headers, .. }, body) = self.ask(operation, self.timeout).await?;
        Ok(Reply { status, headers, body })
    }

    async fn ask(&self, operation: Operation, patience: Duration) -> Result<(Answer, Bytes), Error> {
        let until = Instant::now() + patience + ON_THE_WAY;
        let sent = Arc::new(AtomicBool::new(false));
        let (answer, answered) = oneshot::channel();
        let ask = Command::Ask { operation, sent: Arc::clone(&sent), answer };
        let asked = async {
            self.tell(ask).await?;
            answered.await.map_err(|_| Error::Closed)?
        };
        timeout_at(until, asked).await.unwrap_or_else(|_| match sent.load(Ordering::Acquire) {
            true => Err(Error::Unknown(Problem::new("E-TIMEOUT", "no answer came before the deadline"))),
            false => Err(Error::Rejected(Problem::new("E-UNREACHABLE", "no node was in reach in time"))),
        })
    }

    async fn tell(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }
}

pub(crate) fn point(text: &str) -> Result<Point, Error> {
    text.parse().map_err(|error: starlane_core::PointError| {
        Error::usage(format!("`{text}` is not a point: {}", error.reason))
    })
}

pub(crate) fn kind(text: &str) -> Result<Kind, Error> {
    text.parse().map_err(|error: starlane_core::KindError| Error::usage(error.to_string()))
}
