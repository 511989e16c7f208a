//! Which of the registry's nodes is asked: the one that answered last, as long as it does, else the nearest that can be
//! reached. Pure: what can be reached, what was answered and time go in, a node comes out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use starlane_core::NodeId;

/// For how long a node that failed is passed over, if there is another; twice as long each time, up to [`AVOID_MAX`].
const AVOID: Duration = Duration::from_secs(1);
const AVOID_MAX: Duration = Duration::from_secs(16);

/// A node of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) node: NodeId,
    /// What the way there costs; `None` when none is known.
    pub(super) cost: Option<u64>,
}

/// Chooses.
#[derive(Debug, Default)]
pub(super) struct Nearby {
    current: Option<NodeId>,
    failed: HashMap<NodeId, Failed>,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    until: Instant,
}

impl Nearby {
    /// The node to ask; `except` were asked already. `None` when no way leads to any other.
    pub(super) fn choose(
        &mut self,
        candidates: &[Candidate],
        except: &[NodeId],
        now: Instant,
    ) -> Option<NodeId> {
        self.failed.retain(|node, _| candidates.iter().any(|candidate| candidate.node == *node));
        let reached = candidates.iter().filter(|candidate| !except.contains(&candidate.node));
        let reached = reached.filter_map(|candidate| {
            let avoided = self.failed.get(&candidate.node).is_some_and(|failed| failed.until > now);
            let current = self.current == Some(candidate.node);
            // The current one before nearer ones: to change costs more than a longer way.
            Some(((avoided, !current, candidate.cost?, candidate.node), candidate.node))
        });
        let chosen = reached.min_by_key(|(rank, _)| *rank).map(|(_, node)| node)?;
        if except.is_empty() {
            self.current = Some(chosen);
        }
        Some(chosen)
    }

    /// A node answered.
    pub(super) fn answered(&mut self, node: NodeId) {
        self.failed.remove(&node);
        self.current = Some(node);
    }

    /// A node did not answer, or cannot do what those of the registry do.
    pub(super) fn failed(&mut self, node: NodeId, now: Instant) {
        if self.current == Some(node) {
            self.current = None;
        }
        let failed = self.failed.entry(node).or_insert(Failed { times: 0, until: now });
        // Many calls fail at once when a node is lost, which is one failure.
        if failed.until <= now {
            failed.until = now + AVOID.saturating_mul(1 << failed.times.min(8)).min(AVOID_MAX);
            failed.times = failed.times.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: u64, cost: Option<u64>) -> Candidate {
        Candidate { node: NodeId(node), cost }
    }

    #[test]
    fn the_nearest_is_asked_and_kept_while_it_answers() {
        let (mut nearby, now) = (Nearby::default(), Instant::now());
        let all = [at(1, Some(30)), at(2, Some(10)), at(3, None)];
        assert_eq!(nearby.choose(&all, &[], now), Some(NodeId(2)));
        nearby.answered(NodeId(2));
        let closer = [at(1, Some(1)), at(2, Some(10))];
        assert_eq!(nearby.choose(&closer, &[], now), Some(NodeId(2)), "it answers, so it is kept");
        nearby.failed(NodeId(2), now);
        assert_eq!(nearby.choose(&all, &[], now), Some(NodeId(1)));
        assert_eq!(nearby.choose(&all[1..], &[], now), Some(NodeId(2)), "there is no other");
        assert_eq!(nearby.choose(&all, &[NodeId(1)], now), Some(NodeId(2)));
        assert_eq!(nearby.choose(&all, &[NodeId(1), NodeId(2)], now), None);
        assert_eq!(nearby.choose(&[at(3, None)], &[], now), None);
    }

    /// Nodes come and go, hang and come back; whoever asks finds one that answers as soon as there is one.
    #[test]
    fn whatever_fails_somebody_who_answers_is_found() {
        let (mut asked, mut failed, mut changed) = (0, 0, 0);
        for seed in 0..500_u64 {
            let mut random = seed;
            let mut draw = |below: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            let (mut nearby, mut now) = (Nearby::default(), Instant::now());
            // Whether a way leads there, and whether it answers.
            let mut nodes = [(true, true); 4];
            let mut last = None;
            for _ in 0..200 {
                now += Duration::from_millis(draw(400));
                let node = draw(4) as usize;
                nodes[node] = (draw(4) > 0, draw(4) > 0);
                let candidates: Vec<Candidate> =
                    (0..4).map(|node| at(node as u64, nodes[node].0.then(|| draw(50)))).collect();
                let mut tried = Vec::new();
                let answered = loop {
                    let Some(node) = nearby.choose(&candidates, &tried, now) else { break None };
                    assert!(!tried.contains(&node), "seed {seed}: asked twice");
                    assert!(nodes[node.0 as usize].0, "seed {seed}: no way leads to {node}");
                    asked += 1;
                    if nodes[node.0 as usize].1 {
                        nearby.answered(node);
                        break Some(node);
                    }
                    failed += 1;
                    nearby.failed(node, now);
                    tried.push(node);
                };
                let there_is_one = nodes.iter().any(|(reached, answers)| *reached && *answers);
                assert_eq!(answered.is_some(), there_is_one, "seed {seed}");
                let kept = last.filter(|node: &NodeId| nodes[node.0 as usize] == (true, true));
                if let Some(kept) = kept {
                    assert_eq!(answered, Some(kept), "seed {seed}: left a node that answers");
                }
                changed += u32::from(last.is_some() && answered != last);
                last = answered;
            }
        }
        assert!(asked > 50_000 && failed > 5_000 && changed > 5_000, "{asked} {failed} {changed}");
    }
}
