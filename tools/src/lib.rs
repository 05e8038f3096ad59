//! The simulator, `coraclectl`, and checks of Coracle's layout and licences.

pub mod ctl;
pub mod layout;
pub mod licences;
pub mod mutants;
pub mod sim;
