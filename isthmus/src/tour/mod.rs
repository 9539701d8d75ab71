//! The tour: what the mesh claims, shown step by step on real traffic.

pub mod packet;
pub mod records;
pub mod evidence;
pub mod wire;
