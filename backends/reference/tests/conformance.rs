//! The reference passes what it is the measure of: its own literal results, its optimized plans, the oracle, and the counted bytes.

use levelfold_conformance::registry;
use levelfold_reference::ReferenceBackend;

levelfold_conformance::conformance_tests!(|config| match config.poison {
    Some(byte) => ReferenceBackend::new().with_registry(registry()).with_poison(byte),
    None => ReferenceBackend::new().with_registry(registry()),
});
