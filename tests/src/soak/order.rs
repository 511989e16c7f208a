//! Promise 9: what one sends to another arrives in the order in which it was sent, and at most once.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::Report;
use crate::Api;
use crate::mesh::{Mesh, Plan, hold, record, wait};
use crate::net::Lab;
use crate::relay::{Impairment, Relay, Way};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many signals a sender sends at a time.
const BURST: u32 = 100;
/// The port of the relay between the two nodes.
const PORT: u16 = 4_343;

/// Lets `pairs` of senders on one node and receivers on another exchange `count` signals each, over a network that loses,
/// doubles and reorders, and is cut `cuts` times for longer than a link lives.
pub fn signals_over_a_bad_network(lab: Lab, pairs: u32, count: u32, cuts: u32, cut_for: Duration) -> Report {
    let mut mesh = Mesh::in_lab(lab, &[Plan::relay("cloud")]);
    let cloud = mesh.space("cloud");
    let between = mesh.lab().add("between");
    let server: SocketAddr = (cloud.address(), PORT).into();
    let relay = between.inside(|| Relay::start((between.address(), PORT).into(), server, 9));
    mesh.join_through(relay.address());
    mesh.add(Plan::leaf("edge"));
    // The edge hears where the cloud is dialled. There is no way there but through the relay.
    let edge = mesh.space("edge");
    mesh.lab().cut(&cloud, &edge);
    mesh.wait_ready(2, PATIENCE);
    mesh.publish_witness();
    let points: Vec<[String; 2]> = (0..pairs)
        .map(|pair| {
            [("sender", "edge"), ("receiver", "cloud")]
                .map(|(role, at)| mesh.witness(&format!("{role}-{pair}"), &format!("[at = \"{at}\"]")))
        })
        .collect();
    let [here, there] = ["edge", "cloud"].map(|name| Api::of(mesh.node(name)));
    for [sender, receiver] in &points {
        wait(PATIENCE, "senders and receivers answer", || {
            record(&here, sender).is_some() && record(&there, receiver).is_some()
        });
    }

    let bad = Impairment {
        loss: 0.1,
        reorder: 0.25,
        held: Duration::from_millis(3),
        duplicate: 0.05,
        ..Impairment::default()
    };
    relay.set_both(bad);
    let bursts = count.div_ceil(BURST);
    let mut refused = 0_usize;
    for burst in 0..bursts {
        for [sender, receiver] in &points {
            let first = burst * BURST;
            let body = json!({ "to": receiver, "first": first, "count": BURST.min(count - first) });
            let sent = here.request(sender, "Burst", &body, PATIENCE);
            refused += usize::from(!sent.is_some_and(|sent| sent.is_ok()));
        }
        if (burst + 1) * cuts / bursts > burst * cuts / bursts {
            // Those on their way when the link dies are lost: most are to be there by then.
            let (half, last) = (u64::from(burst * BURST + BURST / 2), &points[points.len() - 1][1]);
            wait(PATIENCE, "most of a burst arrives", || {
                record(&there, last).is_some_and(|noted| noted.end > half)
            });
            relay.set_both(Impairment { blackhole: true, ..bad });
            hold(cut_for);
            relay.set_both(bad);
            relay.rebind();
            // What is sent while no link is up is lost, and that many gaps would prove little about order.
            let (sender, receiver) = (&points[0][0], &points[0][1]);
            wait(PATIENCE, "the link is up again", || {
                record(&here, receiver).is_some() && record(&there, sender).is_some()
            });
        }
    }
    relay.heal();

    // One more signal each: when it is there, all before it are, or never come.
    let (mut late, mut again, mut missing, mut arrived) = (0, 0, 0, 0);
    for [sender, receiver] in &points {
        let (mut noted, mut last) = (None, count);
        wait(PATIENCE, "the last signal arrives", || {
            let body = json!({ "to": receiver, "first": last, "count": 1 });
            last += 1;
            _ = here.request(sender, "Burst", &body, PATIENCE);
            noted = record(&there, receiver).filter(|noted| noted.end > u64::from(count));
            noted.is_some()
        });
        let noted = noted.expect("it arrived");
        late += noted.late as usize;
        again += noted.again as usize;
        missing += noted.missing as usize;
        arrived += (noted.end - noted.missing) as usize;
    }
    let counts = [Way::There, Way::Back].map(|way| relay.counts(way));
    let all = |of: fn(&crate::relay::Counts) -> u64| counts.iter().map(of).sum::<u64>() as usize;
    let mut report = Report::of("P09");
    report.figure("pairs", pairs);
    report.at_least("arrived", arrived, (pairs * count) as usize / 2);
    report.none("inversions", late);
    report.none("told_again", again);
    report.figure("missing", missing);
    report.figure("bursts_refused", refused);
    report.figure("datagrams_lost", all(|counts| counts.lost));
    report.figure("datagrams_reordered", all(|counts| counts.reordered));
    report.figure("datagrams_duplicated", all(|counts| counts.duplicated));
    // A short run has few datagrams, so that not each sort of fault has to meet one.
    report.at_least(
        "faults",
        all(|counts| counts.lost) + all(|counts| counts.reordered) + all(|counts| counts.duplicated),
        1,
    );
    report.figure("cuts", cuts);
    report
}
