//! Machine images: carries an image plan out. It knows the guest bundle, the registry and the cache; it does not know
//! clouds.
//!
//! [`Workshop`] builds a [`DiskImage`] of an image plan, by listing parts that the cache has and making those that it lacks.
//! [`GuestBundle`] is what machines boot, [`raw`] and [`formats`] write disks as files, [`bootable()`] makes one that firmware
//! boots, and [`Signer`] signs it.
//!
//! ```no_run
//! # async fn build(
//! #     registry: i2kit::registry::Registry,
//! #     guest: i2kit::image::GuestBundle,
//! #     plan: &i2kit::plan::image::ImagePlan,
//! #     images: &std::collections::BTreeMap<i2kit::oci::Reference, i2kit::oci::ResolvedImage>,
//! # ) -> Result<(), i2kit::image::ImageError> {
//! let workshop = i2kit::image::Workshop::new(registry, guest, i2kit::report::Events::none());
//! let disk = workshop.build(plan, images).await?;
//! # let _ = disk;
//! # Ok(())
//! # }
//! ```

mod bootable;
mod build;
mod disk_image;
mod error;
pub mod export;
pub mod formats;
pub mod guest;
mod implied;
pub mod raw;
mod sign;
#[cfg(test)]
mod tests;
mod verity;

pub use self::bootable::{bootable, bootable_signed};
pub use self::build::Workshop;
pub use self::disk_image::{DiskImage, Segment, write_part};
pub use self::error::ImageError;
pub use self::formats::FileFormat;
pub use self::guest::GuestBundle;
pub use self::sign::Signer;
