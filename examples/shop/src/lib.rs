//! Two mechtrons in one module: a cart, and the validator that it asks.

mod cart;
mod validator;

pub use cart::{Cart, CartRef, Checkout, Contents, GetContents, Receipt};
pub use validator::{AddItem, GetPrice, Price, Validator, ValidatorRef};

mechtron_sdk::mechtrons![Cart, Validator];
