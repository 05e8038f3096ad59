//! Checks of Coracle's layout, and later its simulator and inspection tools.
