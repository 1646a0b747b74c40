//! A backend.
