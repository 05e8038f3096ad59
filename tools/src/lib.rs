//! Checks of Coracle's layout and licences, and later its simulator and inspection tools.

pub mod layout;
pub mod licences;
