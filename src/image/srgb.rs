//! Conversion of an image's color profile to sRGB.

use std::sync::Arc;

use ::image::{ColorType, DynamicImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};

use crate::error::Result;

/// A conversion from an image's own colors to sRGB.
#[derive(Clone)]
pub(super) enum ToSrgb {
    /// A conversion of red, green and blue together.
    Colors(Arc<Transform8BitExecutor>),
    /// A conversion of gray values.
    Grays(Box<[u8; 256]>),
}

impl ToSrgb {
    /// Returns `None` for a profile that is broken or of another kind than the pixels (such as that of a CMYK JPEG, which
    /// the decoder has converted to RGB). The values are then used unchanged, as browsers do.
    pub(super) fn new(profile: &[u8], color: ColorType) -> Option<ToSrgb> {
        let profile = ColorProfile::new_from_slice(profile).ok()?;
        let to_srgb = |from, to| {
            profile.create_transform_8bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default()).ok()
        };
        match (profile.color_space, color.has_color()) {
            (DataColorSpace::Rgb, true) => {
                let layout = if color.has_alpha() { Layout::Rgba } else { Layout::Rgb };
                to_srgb(layout, layout).map(ToSrgb::Colors)
            }
            (DataColorSpace::Gray, false) => {
                let (grays, mut colors) = (std::array::from_fn::<u8, 256, _>(|gray| gray as u8), [0; 256 * 3]);
                to_srgb(Layout::Gray, Layout::Rgb)?.transform(&grays, &mut colors).ok()?;
                // The profile is gray, so red, green and blue are one channel.
                Some(ToSrgb::Grays(Box::new(std::array::from_fn(|gray| colors[gray * 3]))))
            }
            _ => None,
        }
    }

    pub(super) fn apply(&self, pixels: &mut DynamicImage) -> Result<()> {
        match (self, pixels) {
            (ToSrgb::Colors(transform), DynamicImage::ImageRgb8(colors)) => {
                transform.transform(&colors.clone(), colors)?
            }
            (ToSrgb::Colors(transform), DynamicImage::ImageRgba8(colors)) => {
                transform.transform(&colors.clone(), colors)?
            }
            (ToSrgb::Grays(table), DynamicImage::ImageLuma8(grays)) => {
                grays.iter_mut().for_each(|gray| *gray = table[usize::from(*gray)]);
            }
            // Gray with transparency.
            (ToSrgb::Grays(table), DynamicImage::ImageRgba8(grays)) => {
                let grays = grays.pixels_mut().flat_map(|pixel| &mut pixel.0[..3]);
                grays.for_each(|gray| *gray = table[usize::from(*gray)]);
            }
            _ => {} // no other pair exists
        }
        Ok(())
    }
}
