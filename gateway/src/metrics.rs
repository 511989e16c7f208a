//! What the doors count.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds; from a quarter of a millisecond to the half minute that a request may take.
const BUCKETS: [f64; 12] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one door counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By the first digit of the status, from 1.
    requests: [Counter; CLASSES.len()],
    latency: Latency,
    /// Connections that are open now.
    pub(crate) connections: Gauge,
    /// Watches and followed logs that are open now.
    pub(crate) streams: Gauge,
    /// Sessions of the portal that are open now.
    pub(crate) sessions: Gauge,
    /// WebSockets of the users' web that are open now.
    pub(crate) sockets: Gauge,
    /// Connections that were answered 503 and closed because there were too many.
    pub(crate) refused: Counter,
    /// Connections that were closed because they broke a rule or a limit of time.
    pub(crate) broken: Counter,
}

#[derive(Debug)]
struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(BUCKETS))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    door: &'static str,
    status: &'static str,
}

impl Metrics {
    /// Both doors' metrics, and the registry that renders them.
    pub(crate) fn doors() -> (Arc<Registry>, [Arc<Metrics>; 2]) {
        let names = ["web", "api"];
        let requests = Family::<ClassLabels, Counter>::default();
        let latency = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (connections, streams) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        let sessions = Family::<Labels, Gauge>::default();
        let sockets = Family::<Labels, Gauge>::default();
        let (refused, broken) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        let doors = names.map(|door| {
            let labels = Labels { door };
            Arc::new(Metrics {
                requests: CLASSES.map(|status| requests.get_or_create_owned(&ClassLabels { door, status })),
                latency: Latency(latency.get_or_create_owned(&labels)),
                connections: connections.get_or_create_owned(&labels),
                streams: streams.get_or_create_owned(&labels),
                sessions: sessions.get_or_create_owned(&labels),
                sockets: sockets.get_or_create_owned(&labels),
                refused: refused.get_or_create_owned(&labels),
                broken: broken.get_or_create_owned(&labels),
            })
        });
        let mut registry = Registry::with_prefix("starlane_gateway");
        registry.register("requests", "Requests answered, by the class of their status", requests);
        registry.register("request_seconds", "Time from a request's head to its answer's end", latency);
        registry.register("connections", "Connections open now", connections);
        registry.register("streams", "Watches and followed logs open now", streams);
        registry.register("sessions", "Sessions of the portal open now", sessions);
        registry.register("sockets", "WebSockets of the users' web open now", sockets);
        registry.register(
            "connections_refused",
            "Connections answered 503 because there were too many",
            refused,
        );
        registry.register(
            "connections_broken",
            "Connections closed for a broken rule or a limit of time",
            broken,
        );
        (Arc::new(registry), doors)
    }

    /// Begins to watch a request.
    pub(crate) fn request(self: &Arc<Self>) -> Watched {
        Watched { metrics: Arc::clone(self), begun: Instant::now(), status: 0 }
    }
}

/// A request that is being answered; counted when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    metrics: Arc<Metrics>,
    begun: Instant,
    status: u16,
}

impl Watched {
    pub(crate) fn status(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A request whose client went away before its answer has no status, and is not counted as answered.
        let class = usize::from(self.status / 100).checked_sub(1);
        if let Some(counter) = class.and_then(|class| self.metrics.requests.get(class)) {
            counter.inc();
            self.metrics.latency.0.observe(self.begun.elapsed().as_secs_f64());
        }
    }
}
