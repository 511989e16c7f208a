//! Keeps a book of the large orders that wait to be paid, and is told of each by the mesh: see the README.

use std::collections::BTreeMap;

use mechtron_sdk::prelude::*;

/// How many lines of the book are kept; the oldest go first.
const LINES_MAX: usize = 1_000;

/// Asks which orders wait to be paid.
#[derive(Message)]
pub struct GetOpen;

/// What waits to be paid.
#[derive(Debug, PartialEq, Message)]
pub struct Open {
    /// The totals, by the points of the orders.
    pub orders: BTreeMap<String, f64>,
    /// All of them together.
    pub total: f64,
}

/// Asks for the book.
#[derive(Message)]
pub struct GetBook;

/// What happened, in order.
#[derive(Debug, PartialEq, Message)]
pub struct Book {
    /// The last lines.
    pub lines: Vec<String>,
}

/// What an auditor is told of each change.
#[derive(Message)]
pub struct Add {
    /// How many changes.
    pub by: u64,
}

/// What the ledger's config may say.
#[derive(Message)]
struct Config {
    /// A counter that is told of each change before it is written down.
    auditor: Option<String>,
}

/// Keeps a book of the large orders that wait to be paid.
#[mechtron]
#[derive(Debug, PartialEq)]
pub struct Ledger {
    open: BTreeMap<String, f64>,
    lines: Vec<String>,
}

#[handlers]
impl Ledger {
    /// Writes down what happens to orders of at least 100 that are not paid.
    #[on(watch = "shop:orders:*<Order>[total >= 100 and not exists(paid)]")]
    async fn overdue(&mut self, cx: &mut Cx, change: Change) -> Result<()> {
        if let Some(auditor) = cx.config::<Config>()?.auditor {
            // When the auditor is not there, this fails: nothing is written down, and the change is told again later.
            cx.call::<_, mechtron_sdk::serde_json::Value>(&auditor, &Add { by: 1 }).await?;
        }
        match change {
            Change::Entered(order) | Change::Updated(order) => {
                let total = order.number("total").unwrap_or_default();
                let line = format!("{} owes {total}", order.point);
                self.open.insert(order.point, total);
                self.write(line);
            }
            Change::Left(order) => {
                self.open.remove(&order.point);
                self.write(format!("{} owes nothing", order.point));
            }
            Change::Again => {
                self.open.clear();
                self.write("counted anew".to_owned());
            }
        }
        Ok(())
    }

    /// Which orders wait to be paid.
    #[call]
    async fn open(&self, _cx: &mut Cx, _m: GetOpen) -> Result<Open> {
        Ok(Open { orders: self.open.clone(), total: self.open.values().sum() })
    }

    /// What happened.
    #[call]
    async fn book(&self, _cx: &mut Cx, _m: GetBook) -> Result<Book> {
        Ok(Book { lines: self.lines.clone() })
    }

    fn write(&mut self, line: String) {
        if self.lines.len() >= LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push(line);
    }
}

mechtrons![Ledger];

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str, total: u32) -> Resource {
        Resource::new(format!("shop:orders:{name}"), "Order").with("total", total)
    }

    #[test]
    fn writes_down_what_it_is_told() -> Result<()> {
        let kit = TestKit::new();
        let ledger = kit.spawn("shop:ledger", Ledger::default());
        ledger.overdue(Change::Entered(order("a", 120)))?;
        ledger.overdue(Change::Entered(order("b", 300)))?;
        ledger.overdue(Change::Updated(order("a", 150)))?;
        ledger.overdue(Change::Left(order("b", 300)))?;
        kit.restart("shop:ledger");
        assert_eq!(ledger.open(GetOpen)?.total, 150.0);
        ledger.overdue(Change::Again)?;
        assert_eq!(ledger.open(GetOpen)?.orders, BTreeMap::new());
        assert_eq!(ledger.book(GetBook)?.lines.len(), 5);
        Ok(())
    }

    #[test]
    fn writes_nothing_down_that_the_auditor_does_not_hear() {
        let kit = TestKit::new();
        let config = mechtron_sdk::serde_json::json!({ "auditor": "shop:auditor" });
        let ledger = kit.spawn_with("shop:ledger", Ledger::default(), config);
        assert!(ledger.overdue(Change::Entered(order("a", 120))).is_err());
        assert_eq!(ledger.state(), Ledger::default());
    }
}
