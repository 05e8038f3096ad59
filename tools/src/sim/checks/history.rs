//! What clients saw, and whether one copy of the data could have shown it to them.
