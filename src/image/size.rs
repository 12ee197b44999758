//! Sizes in pixels, and the ways to fit an image into one.

use std::fmt;

use ::image::DynamicImage;
use ::image::metadata::Orientation;

/// A width and a height, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// The width, from left to right.
    pub width: u32,
    /// The height, from top to bottom.
    pub height: u32,
}

impl Size {
    pub(super) fn new(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    pub(super) fn of(pixels: &DynamicImage) -> Size {
        Size::new(pixels.width(), pixels.height())
    }

    pub(super) fn turned(self) -> Size {
        Size::new(self.height, self.width)
    }

    pub(super) fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn fits_in(self, bounds: Size) -> bool {
        self.width <= bounds.width && self.height <= bounds.height
    }

    /// Returns the largest size inside `bounds` with the proportions of `self`, at least one pixel per side.
    fn scaled_to(self, bounds: Size) -> Size {
        let part = |side: u32, of: u32, whole: u32| {
            let (side, of, whole) = (u64::from(side), u64::from(of), u64::from(whole));
            // At most the other side of the bounds, so it fits into a u32.
            ((side * of + whole / 2) / whole).max(1) as u32
        };
        let is_wider =
            u64::from(self.width) * u64::from(bounds.height) > u64::from(self.height) * u64::from(bounds.width);
        if is_wider {
            Size::new(bounds.width, part(bounds.width, self.height, self.width))
        } else {
            Size::new(part(bounds.height, self.width, self.height), bounds.height)
        }
    }
}

impl From<(u32, u32)> for Size {
    fn from((width, height): (u32, u32)) -> Size {
        Size { width, height }
    }
}

/// Writes `800 x 600`, with commas between groups of three digits.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", grouped(self.width.into()), grouped(self.height.into()))
    }
}

/// A way to fit an image into a width and a height, in pixels. A side of 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fit {
    /// The whole image, inside the width and the height. It keeps its proportions and is never enlarged.
    Inside(u32, u32),
    /// Exactly the width and the height. The image is scaled up or down to cover them, and cropped equally on both sides.
    Cover(u32, u32),
}

impl Fit {
    /// The full size of the image.
    pub(super) const WHOLE: Fit = Fit::Inside(u32::MAX, u32::MAX);

    /// Returns the fit for an image that is rotated afterward.
    pub(super) fn before_rotation(self, orientation: Orientation) -> Fit {
        match self {
            Fit::Inside(width, height) if is_turned(orientation) => Fit::Inside(height, width),
            Fit::Cover(width, height) if is_turned(orientation) => Fit::Cover(height, width),
            fit => fit,
        }
    }

    /// Returns the size of the central part that is used, and the size that this part is scaled to.
    pub(super) fn plan(self, from: Size) -> (Size, Size) {
        match self {
            Fit::Inside(width, height) => {
                let bounds = Size::new(width.max(1), height.max(1));
                (from, if from.fits_in(bounds) { from } else { from.scaled_to(bounds) })
            }
            Fit::Cover(width, height) => {
                let to = Size::new(width.max(1), height.max(1));
                (to.scaled_to(from), to)
            }
        }
    }

    /// Returns the largest divisor at which the image can be decoded without being enlarged afterward.
    pub(super) fn divisor(self, from: Size) -> u32 {
        let (part, to) = self.plan(from);
        let is_enough = |by: &u32| to.fits_in(Size::new(part.width / by, part.height / by));
        [8, 4, 2].into_iter().find(is_enough).unwrap_or(1)
    }
}

/// Returns true if the rotation to upright swaps width and height.
pub(super) fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Formats whole millions as `50 million`, and other numbers as `50,000,001`.
pub(super) fn rounded(number: u64) -> String {
    if number > 0 && number.is_multiple_of(1_000_000) {
        format!("{} million", grouped(number / 1_000_000))
    } else {
        grouped(number)
    }
}

/// Formats a number with commas between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
