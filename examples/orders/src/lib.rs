//! Orders as resources of a kind of their own, and a service that takes and closes them.
//!
//! What may have been done is tried again until it surely is: each step leaves things as they are when it was done before.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use starlane_client::{Client, Error, Failed, Incoming, Reply, Step};

/// Where orders are: those of the space `shop`.
pub const ORDERS: &str = "shop:orders";
/// Those that somebody should look after: large, and not paid.
pub const OPEN: &str = "shop:orders:*<Order>[total >= 100 and not exists(paid)]";
/// What an order must be, a JSON Schema.
const SCHEMA: &str = include_str!("order.schema.json");
/// How many are made at a time.
const AT_A_TIME: usize = 64;
/// How long to wait before what may have been done is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What it costs.
    pub total: f64,
    /// Whose it is.
    pub customer: String,
}

/// What `Place` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Where the order is.
    pub order: String,
}

/// Makes the space, declares the kind, and makes the place where orders are.
///
/// # Errors
/// When a node refuses it.
pub async fn declare(client: &Client) -> Result<(), Error> {
    client.ensure("shop", "Space", ()).await?;
    client.ensure("shop:schemas", "FileSystem", ()).await?;
    let schema = "shop:schemas:/order.json";
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    client.call("PUT", "/v1/files/shop:schemas:%2Forder.json", headers, SCHEMA).await?;
    client.ensure("shop:kinds", "Base", ()).await?;
    client.ensure("shop:kinds:order", "Kind", json!({ "schema": schema })).await?;
    client.ensure(ORDERS, "Base", ()).await?;
    Ok(())
}

/// Makes many orders; number `n` is `shop:orders:o-N` and costs `n` modulo 200.
///
/// # Errors
/// When a node refuses one.
pub async fn make(client: &Client, count: usize) -> Result<(), Error> {
    let each = |number: usize| async move {
        let order = Order { total: (number % 200) as f64, customer: format!("customer-{}", number % 10) };
        let at = point(number);
        surely(|| client.ensure(&at, "Order", &order)).await.map(drop)
    };
    stream::iter(0..count).map(each).buffer_unordered(AT_A_TIME).try_collect().await
}

/// Marks an order as paid.
///
/// # Errors
/// When a node refuses it.
pub async fn pay(client: &Client, order: &str) -> Result<(), Error> {
    surely(|| client.set(order, json!({ "paid": true }), None)).await.map(drop)
}

/// Where an order is.
pub fn point(number: usize) -> String {
    format!("{ORDERS}:o-{number}")
}

/// Answers what is asked of `shop:orders`: `Place` makes an order, `Pay` closes one.
///
/// # Errors
/// When the point cannot be served.
pub async fn serve(client: &Client) -> Result<(), Error> {
    let inside = client.clone();
    client
        .serve(ORDERS, None, move |incoming| {
            let client = inside.clone();
            async move { answer(&client, incoming).await }
        })
        .await
}

async fn answer(client: &Client, incoming: Incoming) -> Result<Reply, Failed> {
    match incoming.method.as_str() {
        "Ext<Place>" => {
            let order: Order = incoming.read()?;
            // The node gives the number.
            let made = client.create(&format!("{ORDERS}:o-%"), "Order", &order).await?;
            Ok(Reply::json(&Placed { order: made.point.to_string() })?.status(201))
        }
        "Ext<Pay>" => {
            let Placed { order } = incoming.read()?;
            pay(client, &order).await?;
            Ok(Reply::new(204))
        }
        other => Err(Failed::refused(format!("orders know `Place` and `Pay`, not `{other}`"))),
    }
}

/// Prints what enters, changes in and leaves the list of large orders that are not paid.
///
/// # Errors
/// When a node refuses the watch.
pub async fn follow(client: &Client) -> Result<(), Error> {
    let mut watch = client.watch(OPEN).await?;
    while let Some(step) = watch.next().await {
        match step {
            Step::Listed { resources, last, .. } => {
                resources.iter().for_each(|order| println!("listed  {order}"));
                if last {
                    println!("-- so far");
                }
            }
            Step::Changed { changes, .. } => {
                for change in changes {
                    use starlane_client::core::Change;
                    let what = match change {
                        Change::Entered(_) => "entered",
                        Change::Updated(_) => "updated",
                        Change::Left(_) => "left   ",
                    };
                    println!("{what} {}", change.resource());
                }
            }
            // Only a watch of a count or of the first few tells those.
            Step::Bookmark { .. } | Step::Counted { .. } | Step::Ranked { .. } => {}
            Step::Gone { .. } => println!("-- the history was too short; the list again"),
        }
    }
    watch.failure().map_or(Ok(()), Err)
}

/// Tries until it is known to be done, or surely not to be had.
///
/// # Errors
/// When a node refuses it.
pub async fn surely<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    const PASSES: [&str; 4] = ["E-UNREACHABLE", "E-TIMEOUT", "E-BUSY", "E-NOT-READY"];
    loop {
        match ask().await {
            Err(error) if error.code().is_some_and(|code| PASSES.contains(&code)) => {
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}
