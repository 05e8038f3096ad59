//! Tables and documents.
