//! x
use super::Plan;
use crate::error::Result;
impl Plan {
    /// x
    /// # Errors
    /// x
    pub fn verify(&self) -> Result<()> {
        Ok(())
    }
}
