//! Knows the articles.

use std::collections::BTreeMap;

use mechtron_sdk::prelude::*;

/// Puts something into a cart.
#[derive(Debug, Clone, PartialEq, Message)]
pub struct AddItem {
    /// What: the name of an article.
    pub article: String,
    /// How many, up to 99; 1 when left out.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// Asks for the price of so many of each article.
#[derive(Debug, Message)]
pub struct GetPrice {
    /// How many of each article.
    pub items: BTreeMap<String, u32>,
}

/// What something costs.
#[derive(Debug, PartialEq, Message)]
pub struct Price {
    /// In cents.
    pub cents: u64,
}

/// The price list.
#[derive(Message)]
struct Prices {
    /// Cents for each article.
    prices: BTreeMap<String, u64>,
}

/// Checks orders against the price list in its config. It keeps nothing.
#[mechtron]
pub struct Validator;

#[handlers]
impl Validator {
    /// Checks an item on its way to a cart, and hands it on with the article's name as the list writes it.
    #[call]
    async fn check(&self, cx: &mut Cx, m: AddItem) -> Result<AddItem> {
        let config: Prices = cx.config()?;
        let article = m.article.trim().to_lowercase();
        ensure!(config.prices.contains_key(&article), NOT_FOUND, "there is no article `{}`", m.article);
        ensure!((1..=99).contains(&m.count), INVALID_MESSAGE, "`count` is 1 to 99, not {}", m.count);
        Ok(AddItem { article, count: m.count })
    }

    /// Adds up what the items cost.
    #[call]
    async fn price(&self, cx: &mut Cx, m: GetPrice) -> Result<Price> {
        let config: Prices = cx.config()?;
        let mut cents = 0;
        for (article, count) in &m.items {
            let Some(each) = config.prices.get(article) else {
                bail!(NOT_FOUND, "there is no article `{article}` any more");
            };
            cents += each * u64::from(*count);
        }
        Ok(Price { cents })
    }
}
