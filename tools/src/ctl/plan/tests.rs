//! Plans, case by case.
