//! Keeps what somebody wants to buy.

use std::collections::BTreeMap;

use mechtron_sdk::prelude::*;

use crate::validator::{AddItem, GetPrice, ValidatorRef};

/// Asks what is in the cart.
#[derive(Message)]
pub struct GetContents;

/// What is in a cart.
#[derive(Debug, PartialEq, Message)]
pub struct Contents {
    /// How many of each article.
    pub items: BTreeMap<String, u32>,
}

/// Buys what is in the cart.
#[derive(Message)]
pub struct Checkout;

/// What was bought.
#[derive(Debug, PartialEq, Message)]
pub struct Receipt {
    /// What it costs, in cents.
    pub cents: u64,
    /// How many things.
    pub count: u32,
}

/// What the mechtron's config says.
#[derive(Message)]
struct Wiring {
    /// Whom to ask for prices.
    validator: ValidatorRef,
}

/// A cart. Its bind sends each item past the validator before it comes here.
#[mechtron]
#[derive(Debug)]
pub struct Cart {
    items: BTreeMap<String, u32>,
}

#[handlers]
impl Cart {
    /// Puts an item into the cart.
    #[call]
    async fn add(&mut self, cx: &mut Cx, m: AddItem) -> Result<Contents> {
        info!(cx, "{} of {}", m.count, m.article);
        *self.items.entry(m.article).or_default() += m.count;
        Ok(Contents { items: self.items.clone() })
    }

    /// What is in the cart.
    #[call]
    async fn contents(&self, _cx: &mut Cx, _m: GetContents) -> Result<Contents> {
        Ok(Contents { items: self.items.clone() })
    }

    /// Asks the validator for the price and empties the cart. When the validator cannot be reached, the cart stays as it
    /// is.
    #[call]
    async fn checkout(&mut self, cx: &mut Cx, _m: Checkout) -> Result<Receipt> {
        ensure!(!self.items.is_empty(), "EMPTY", "there is nothing in the cart");
        let config: Wiring = cx.config()?;
        let items = std::mem::take(&mut self.items);
        let count = items.values().sum();
        let price = config.validator.price(cx, GetPrice { items }).await?;
        Ok(Receipt { cents: price.cents, count })
    }

    /// The cart as a page.
    #[http(GET, "/")]
    async fn page(&self, _cx: &mut Cx) -> Result<Html<String>> {
        let rows: String = self
            .items
            .iter()
            .map(|(article, count)| format!("<li>{count} × {}</li>", escape(article)))
            .collect();
        Ok(Html(format!("<!doctype html><title>Cart</title><h1>Cart</h1><ul>{rows}</ul>\n")))
    }
}

/// Text that is safe inside of HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use mechtron_sdk::ErrorKind;
    use mechtron_sdk::serde_json::json;

    use super::*;
    use crate::validator::Validator;

    fn shop() -> (TestKit, CartHandle) {
        let kit = TestKit::new();
        let prices = json!({ "prices": { "apple": 30, "pear": 45 } });
        kit.spawn_with("shop:validator", Validator, prices);
        let cart = kit.spawn_with("shop:cart", Cart::default(), json!({ "validator": "shop:validator" }));
        (kit, cart)
    }

    fn item(article: &str, count: u32) -> AddItem {
        AddItem { article: article.to_owned(), count }
    }

    #[test]
    fn buys() -> Result<()> {
        let (kit, cart) = shop();
        cart.add(item("apple", 2))?;
        cart.add(item("pear", 1))?;
        assert_eq!(kit.http("shop:cart", GET, "/")?.body_text().matches("<li>").count(), 2);
        assert_eq!(cart.checkout(Checkout)?, Receipt { cents: 105, count: 3 });
        assert!(cart.contents(GetContents)?.items.is_empty());
        assert_eq!(kit.sent_to("shop:validator").len(), 1);
        Ok(())
    }

    #[test]
    fn keeps_the_cart_when_the_validator_does_not_answer() -> Result<()> {
        let (kit, cart) = shop();
        cart.add(item("apple", 2))?;
        for failure in [Failure::Unreachable, Failure::Busy, Failure::Timeout, Failure::AnswerLost] {
            kit.fail_next("shop:validator", failure);
            let error = cart.checkout(Checkout).expect_err("no validator");
            assert_eq!(error.kind(), ErrorKind::Failed, "{failure:?}: the checkout itself ran");
            assert_eq!(cart.state().items, BTreeMap::from([("apple".to_owned(), 2)]));
        }
        assert_eq!(cart.checkout(Checkout)?.cents, 60);
        Ok(())
    }

    #[test]
    fn the_validator_s_refusal_reaches_the_customer() -> Result<()> {
        let (_kit, cart) = shop();
        cart.add(item("brick", 1))?;
        let error = cart.checkout(Checkout).expect_err("no such article");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused { status: 422 }, NOT_FOUND));
        Ok(())
    }

    #[test]
    fn the_validator_checks_items() -> Result<()> {
        let kit = TestKit::new();
        let validator = kit.spawn_with("shop:validator", Validator, json!({ "prices": { "apple": 30 } }));
        assert_eq!(validator.check(item(" Apple ", 1))?, item("apple", 1));
        for wrong in [item("brick", 1), item("apple", 0), item("apple", 100)] {
            assert!(validator.check(wrong).is_err());
        }
        let alone = kit.request(
            "shop:validator",
            "Ext<AddItem>",
            "/",
            "application/json",
            br#"{"article":"apple"}"#,
        )?;
        assert_eq!(alone.body_json::<AddItem>()?.count, 1);
        Ok(())
    }
}
