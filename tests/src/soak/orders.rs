//! A service makes resources of its own kind and changes them, while the node is killed; another process watches a filter over
//! them, and sees each step of each once and in its order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use orders::{OPEN, Order, point, surely};
use serde_json::json;
use starlane_client::core::Change;
use starlane_client::{Client, Config, Error, Step};
use tokio::sync::oneshot;

use super::Report;
use crate::Node;

/// How many clients' worth of writes are under way.
const AT_A_TIME: usize = 64;
/// How long the watch may take to see the last of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the watch is to see of an order, and sees: `e` entered, `u` updated, `l` left.
type Steps = BTreeMap<String, String>;

/// Makes `count` orders, pays some and notes something on others, with `kills` of the node in between.
///
/// # Panics
/// When the node refuses what it must not.
pub fn orders_while_the_node_is_killed(count: usize, kills: usize) -> Report {
    let mut node = Node::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let config = Config::of_data(node.data()).expect("the node runs");
    let connect = || async { Client::connect(config.clone()).await.expect("the node is there") };
    runtime.block_on(async { orders::declare(&connect().await).await.expect("orders are declared") });

    let (done, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (listed, begun) = oneshot::channel();
    let watching = runtime.spawn(watch(runtime.block_on(connect()), listed, ended.clone()));
    // What is written before would be in the list already, as it is by then.
    runtime.block_on(begun).expect("the list comes to its end");
    let writing = runtime.spawn(write(runtime.block_on(connect()), count, done.clone()));

    let (mut killed, steps) = (0, 3 * count);
    while !writing.is_finished() && killed < kills {
        // Each kill comes after another share of the work.
        if done.load(Ordering::Relaxed) * (kills + 1) > steps * (killed + 1) {
            node.kill();
            node.restart();
            killed += 1;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    runtime.block_on(writing).expect("the writer does not panic").expect("the node takes what is right");
    ended.store(true, Ordering::Relaxed);
    // The watch ends with the last of what was written.
    let client = runtime.block_on(connect());
    let last = Order { total: 150.0, customer: "the last".to_owned() };
    runtime.block_on(surely(|| client.ensure("shop:orders:last", "Order", &last))).expect("it is made");
    let watched = runtime.block_on(async { tokio::time::timeout(PATIENCE, watching).await });
    let (seen, listed_again) = watched.expect("the watch sees the last").expect("it does not panic");

    let expected = expected(count);
    let differ = |(order, steps): &(&String, &String)| expected.get(*order) != Some(steps);
    let wrong = seen.iter().filter(differ).count();
    let missed = expected.keys().filter(|order| !seen.contains_key(*order)).count();
    if let Some((order, steps)) = seen.iter().find(differ) {
        eprintln!("{order}: saw `{steps}`, expected {:?}", expected.get(order));
    }
    let selected = runtime.block_on(client.select(OPEN)).expect("it can be selected").len();
    // And the one at the end.
    let open = expected.values().filter(|steps| !steps.ends_with('l')).count() + 1;
    let mut report = Report::of("orders");
    report.figure("orders", count);
    report.at_least("kills", killed, kills);
    report.at_least("watched", expected.len(), count / 3);
    report.none("orders_with_wrong_steps", wrong);
    report.none("orders_not_seen", missed);
    report.none("listed_again", listed_again);
    report.none("selected_and_open_differ", selected.abs_diff(open));
    report
}

/// What is to be seen: orders from 100 on enter; of ten of them one is noted something on, and one is paid.
fn expected(count: usize) -> Steps {
    let mut all = Steps::new();
    for number in (0..count).filter(|number| number % 200 >= 100) {
        let mut steps = "e".to_owned();
        if is_noted(number) {
            steps.push('u');
        }
        if is_paid(number) {
            steps.push('l');
        }
        all.insert(point(number), steps);
    }
    all
}

fn is_noted(number: usize) -> bool {
    number.is_multiple_of(5)
}

fn is_paid(number: usize) -> bool {
    number.is_multiple_of(3)
}

async fn write(client: Client, count: usize, done: Arc<AtomicUsize>) -> Result<(), Error> {
    let each = |number: usize| {
        let (client, done) = (client.clone(), done.clone());
        async move {
            let order = Order { total: (number % 200) as f64, customer: format!("customer-{}", number % 10) };
            let at = point(number);
            surely(|| client.ensure(&at, "Order", &order)).await?;
            done.fetch_add(1, Ordering::Relaxed);
            if is_noted(number) {
                surely(|| client.set(&at, json!({ "note": "look" }), None)).await?;
            }
            done.fetch_add(1, Ordering::Relaxed);
            if is_paid(number) {
                orders::pay(&client, &at).await?;
            }
            done.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(())
        }
    };
    stream::iter(0..count).map(each).buffer_unordered(AT_A_TIME).try_collect().await
}

/// All steps of all orders until the last one, and how often the list came again.
async fn watch(client: Client, listed: oneshot::Sender<()>, ended: Arc<AtomicBool>) -> (Steps, usize) {
    let mut watch = client.watch(OPEN).await.expect("it can be watched");
    let (mut seen, mut lists, mut listed) = (Steps::new(), 0_usize, Some(listed));
    let mut note = |order: &str, step: char| seen.entry(order.to_owned()).or_default().push(step);
    'all: while let Some(step) = watch.next().await {
        match step {
            Step::Listed { resources, last, .. } => {
                resources.iter().for_each(|order| note(order.point.as_str(), 'e'));
                lists += usize::from(last);
                if let Some(listed) = listed.take_if(|_| last) {
                    listed.send(()).expect("it is waited for");
                }
            }
            Step::Changed { changes, .. } => {
                for change in changes {
                    let order = change.resource().point.as_str();
                    if order == "shop:orders:last" {
                        assert!(ended.load(Ordering::Relaxed), "the last comes last");
                        break 'all;
                    }
                    note(
                        order,
                        match change {
                            Change::Entered(_) => 'e',
                            Change::Updated(_) => 'u',
                            Change::Left(_) => 'l',
                        },
                    );
                }
            }
            Step::Counted { .. } | Step::Ranked { .. } => panic!("no count was asked for"),
            Step::Bookmark { .. } => {}
            Step::Gone { .. } => lists += 1,
        }
    }
    assert_eq!(watch.failure(), None);
    (seen, lists.saturating_sub(1))
}
