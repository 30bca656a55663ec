//! The cost of an op: what each node has to parse, copy, compare and move to carry it out, in units that all nodes count
//! alike.
//!
//! The cost is a function of the op and of the documents at its place in the order, so it decides a verdict: an op over
//! [`COST_MAX`] is rejected, on every node. Each part of the work is charged before it is done.
//!
//! | work | units |
//! |---|---|
//! | the text of a merge or a patch; a document that a merge or a patch changes, once an op; a value that a patch copies or moves | [`Size::units`] of it |
//! | a step of a patch | [`VALUE_UNITS`] for each token of its paths |
//! | an insertion into an array, or a removal from one | half a unit for each element behind it |
//! | a guard for a version | an eighth of a unit for each byte of the document |
//!
//! Values in the steps of a patch are part of its text, and what a step replaces or removes was charged when it came there.
//! Puts, deletions and edits of texts cost nothing: the length of an op bounds them.

use super::json::{Size, VALUE_UNITS};
use crate::op::{Body, Command};

/// Most units that one op may cost. A protocol constant.
///
/// A document of the greatest length costs up to 5.2 million units, one of usual content about 2.3 million. To carry an op
/// out, a release build takes 4 to 6 ns for a unit.
pub const COST_MAX: usize = 6 << 20;

/// Elements of an array that are shifted for one unit.
const SHIFTED_PER_UNIT: usize = 2;
/// Bytes that are hashed for one unit.
const HASHED_PER_UNIT: usize = 8;

/// The units that an op has been charged so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost(usize);

/// The op would cost more than [`COST_MAX`]. The work that was to be charged must not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooCostly;

impl Cost {
    /// Charges units.
    pub fn charge(&mut self, units: usize) -> Result<(), TooCostly> {
        let sum = self.0.saturating_add(units);
        if sum > COST_MAX {
            return Err(TooCostly);
        }
        self.0 = sum;
        Ok(())
    }

    /// Charges a value that is parsed or copied.
    pub fn charge_value(&mut self, size: Size) -> Result<(), TooCostly> {
        self.charge(size.units())
    }

    /// Charges a walk along a path of so many tokens.
    pub fn charge_path(&mut self, tokens: usize) -> Result<(), TooCostly> {
        self.charge(VALUE_UNITS * tokens)
    }

    /// Charges elements of an array that are shifted.
    pub fn charge_shift(&mut self, elements: usize) -> Result<(), TooCostly> {
        self.charge(elements.div_ceil(SHIFTED_PER_UNIT))
    }

    /// Charges bytes that are hashed.
    pub fn charge_hash(&mut self, bytes: usize) -> Result<(), TooCostly> {
        self.charge(bytes.div_ceil(HASHED_PER_UNIT))
    }

    /// The units so far.
    pub fn units(self) -> usize {
        self.0
    }
}

/// What an op costs wherever it comes to lie: the texts of its merges and patches. Asked before they are parsed.
pub fn of_texts(body: &Body<'_>) -> Result<Cost, TooCostly> {
    let mut cost = Cost::default();
    for command in &body.commands {
        if let Command::Merge(_, text) | Command::Patch(_, text) = command {
            cost.charge_value(Size::of_text(text))?;
        }
    }
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::json;

    #[test]
    fn a_charge_over_the_budget_is_refused_and_not_counted() {
        let mut cost = Cost::default();
        cost.charge(COST_MAX - 1).unwrap();
        assert_eq!(cost.charge(2), Err(TooCostly));
        assert_eq!(cost.charge(usize::MAX), Err(TooCostly));
        assert_eq!(cost.units(), COST_MAX - 1);
        cost.charge(1).unwrap();
    }

    #[test]
    fn a_small_change_of_the_costliest_document_is_within_the_budget() {
        let costliest = (0..json::DOCUMENT_BYTES_MAX / 2 - 1).map(|_| "0").collect::<Vec<_>>().join(",");
        let size = Size::of_text(&format!("[{costliest}]"));
        assert!(size.units() < COST_MAX - (64 << 10), "{size:?}");
    }
}
