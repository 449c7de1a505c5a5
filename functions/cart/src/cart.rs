//! What a cart may hold. No IO.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

/// The most of one article.
pub(crate) const MAX_QUANTITY: u32 = 1000;
/// The most articles: keeps a cart far below the size limit of a session.
pub(crate) const MAX_ITEMS: usize = 100;
const MAX_SKU: usize = 64;

/// A cart: quantities by article, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cart {
    pub(crate) items: BTreeMap<String, u32>,
}

/// So many of one article.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

impl Item {
    /// Reads `{"sku": "tea", "quantity": 2}`. By hand, so that each message names the field at fault.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Failure::Invalid(format!("the body is not JSON: {error}")))?;
        let sku = value["sku"].as_str().filter(|sku| is_sku(sku)).ok_or_else(|| {
            Failure::Invalid(format!(
                "sku must be 1 to {MAX_SKU} letters, digits, dots, dashes or underscores"
            ))
        })?;
        let quantity = value["quantity"].as_u64().and_then(|quantity| u32::try_from(quantity).ok());
        let quantity =
            quantity.filter(|quantity| (1..=MAX_QUANTITY).contains(quantity)).ok_or_else(|| {
                Failure::Invalid(format!("quantity must be a whole number from 1 to {MAX_QUANTITY}"))
            })?;
        Ok(Self { sku: sku.to_owned(), quantity })
    }
}

fn is_sku(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_SKU).contains(&text.len()) && text.bytes().all(allowed)
}

impl Cart {
    /// Adds to what is there.
    pub(crate) fn add(&mut self, item: &Item) -> Result<(), Failure> {
        let quantity = self.items.get(&item.sku).copied().unwrap_or(0) + item.quantity;
        if quantity > MAX_QUANTITY {
            return Err(Failure::Invalid(format!("quantity of {} would exceed {MAX_QUANTITY}", item.sku)));
        }
        self.items.insert(item.sku.clone(), quantity);
        if self.items.len() > MAX_ITEMS {
            return Err(Failure::Invalid(format!("a cart holds at most {MAX_ITEMS} articles")));
        }
        Ok(())
    }

    /// Removes an article altogether.
    pub(crate) fn remove(&mut self, sku: &str) -> Result<(), Failure> {
        self.items.remove(sku).map(|_| ()).ok_or(Failure::NotInCart)
    }
}
