//! How much processor time processes used: the figure that says least of who else is on the machine.

use std::time::Duration;

/// The kernel counts in hundredths of a second, as it tells all programs.
const TICK: Duration = Duration::from_millis(10);

/// What processes used so far, all their threads together, in user and kernel mode.
pub(crate) fn used(processes: &[u32]) -> Duration {
    processes.iter().map(|pid| ticks(*pid) * TICK).sum()
}

fn ticks(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields = stat.rsplit_once(") ").expect("the name is in parentheses").1;
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("a number")).sum()
}
