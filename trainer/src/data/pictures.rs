//! Pictures as CLIP's image processor makes them: made square, resized, RGB.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use hydra_shared::names::NAMED;
use hydra_shared::vlm::CLIP_MEAN;
use image::{ImageReader, Limits, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::digest::sha256_hex;
use crate::error::{Kind, ResultExt, failure, message_of};

/// Largest side of a picture, in pixels, that is decoded.
const LARGEST_SIDE: u32 = 16_384;
/// Most bytes that decoding may take.
const DECODING_BYTES: u64 = 1 << 30;

/// How a picture of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Padded with CLIP's mean colour: MobileVLM's `image_aspect_ratio: pad`.
    Pad,
    /// Its middle: CLIP's own way, which MobileVLM's evaluation on ScienceQA uses.
    Crop,
}

/// What happens to an example whose picture or text cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Damaged {
    /// The run ends with a message that names it.
    Error,
    /// It is named in a warning and left out.
    Skip,
}

/// Reads a picture and makes it `side` pixels square.
///
/// # Errors
/// A file that is missing, no picture, or larger than is sensible.
pub fn read_picture(path: &Path, side: usize, fit: Fit) -> Result<Vec<u8>> {
    let place = || format!("{}: this picture cannot be read", path.display());
    let bytes = std::fs::read(path).or_fail(Kind::Data, place)?;
    decode_picture(&bytes, side, fit).or_fail(Kind::Data, place)
}

/// Decodes a picture (JPEG, PNG, WebP, BMP, GIF; recognised by content) and makes it `side` pixels square.
///
/// # Errors
/// Bytes that are no picture, or one larger than is sensible.
pub fn decode_picture(bytes: &[u8], side: usize, fit: Fit) -> Result<Vec<u8>> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(DECODING_BYTES);
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    let picture = reader
        .decode()
        .with_context(|| format!("not a picture that can be decoded (at most {LARGEST_SIDE} pixels a side)"))?;
    square(&picture.into_rgb8(), u32::try_from(side)?, fit)
}

/// RGB bytes of the picture, `side` pixels square.
fn square(picture: &RgbImage, side: u32, fit: Fit) -> Result<Vec<u8>> {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(failure(Kind::Data, "the picture has no pixels"));
    }
    let longest = u64::from(width.max(height));
    let whole = match fit {
        Fit::Pad => longest * longest,
        Fit::Crop => u64::from(side) * (u64::from(side) * longest / u64::from(width.min(height))),
    };
    if 3 * whole > DECODING_BYTES {
        let message = format!("{width}×{height} pixels are too long and narrow to be made square");
        return Err(failure(Kind::Data, message));
    }
    match fit {
        Fit::Pad => {
            let longest = width.max(height);
            // As MobileVLM does it: the mean colour is cut off to a byte, the picture stands in the middle.
            let colour = CLIP_MEAN.map(|mean| (mean * 255.0) as u8);
            let mut padded = RgbImage::from_pixel(longest, longest, image::Rgb(colour));
            let (left, top) = ((longest - width) / 2, (longest - height) / 2);
            image::imageops::replace(&mut padded, picture, i64::from(left), i64::from(top));
            resize(padded, side, side)
        }
        Fit::Crop => {
            // The shorter side becomes `side`, the longer one is cut off to a whole number, as Transformers does it.
            let scaled = |longer: u32, shorter: u32| (f64::from(side) * f64::from(longer) / f64::from(shorter)) as u32;
            let (wide, high) =
                if width < height { (side, scaled(height, width)) } else { (scaled(width, height), side) };
            let resized = resize(picture.clone(), wide, high)?;
            let (left, top) = (((wide - side) / 2) as usize, ((high - side) / 2) as usize);
            let (side, wide) = (side as usize, wide as usize);
            let rows = (top..top + side).flat_map(|y| {
                let start = (y * wide + left) * 3;
                resized[start..start + side * 3].to_vec()
            });
            Ok(rows.collect())
        }
    }
}

/// Bicubic, as Pillow does it: rows first, then columns, rounded to bytes in between.
fn resize(picture: RgbImage, width: u32, height: u32) -> Result<Vec<u8>> {
    let (old_width, old_height) = picture.dimensions();
    let source = Image::from_vec_u8(old_width, old_height, picture.into_raw(), PixelType::U8x3)?;
    let rows = resize_pass(source, width, old_height)?;
    Ok(resize_pass(rows, width, height)?.into_vec())
}

fn resize_pass(source: Image<'static>, width: u32, height: u32) -> Result<Image<'static>> {
    if (source.width(), source.height()) == (width, height) {
        return Ok(source);
    }
    let mut target = Image::new(width, height, PixelType::U8x3);
    // Pillow's bicubic filter has a = −0.5, which is the one of Catmull and Rom.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize(&source, &mut target, &options)?;
    Ok(target)
}

/// A picture as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PictureFile {
    /// A file.
    Path(PathBuf),
    /// A file's bytes.
    Bytes {
        /// What to call it in messages.
        name: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// RGB bytes of a square of the tower's size: a generated picture.
    Rgb(Vec<u8>),
}

impl PictureFile {
    fn read(&self, side: usize, fit: Fit) -> Result<Vec<u8>> {
        match self {
            Self::Path(path) => read_picture(path, side, fit),
            Self::Bytes { name, bytes } => {
                decode_picture(bytes, side, fit).or_fail(Kind::Data, || format!("{name} cannot be read"))
            }
            Self::Rgb(rgb) => Ok(rgb.clone()),
        }
    }

    /// SHA-256 of the bytes and of what is made of them; none for a file that cannot be read.
    fn digest(&self, side: usize, fit: Fit) -> Option<String> {
        let read;
        let (made, bytes) = match self {
            Self::Path(path) => {
                read = std::fs::read(path).ok()?;
                (format!("{fit:?} {side}"), &read)
            }
            Self::Bytes { bytes, .. } => (format!("{fit:?} {side}"), bytes),
            Self::Rgb(rgb) => (format!("Rgb {side}"), rgb),
        };
        Some(sha256_hex(&[made.as_bytes(), bytes].concat()))
    }
}

/// Pictures that are decoded whenever they are needed.
pub struct PictureFiles {
    files: Vec<PictureFile>,
    side: usize,
    fit: Fit,
    damaged: Damaged,
    warned: Mutex<BTreeSet<usize>>,
}

impl PictureFiles {
    /// Pictures to be made `side` pixels square.
    pub fn new(files: Vec<PictureFile>, side: usize, fit: Fit, damaged: Damaged) -> Self {
        Self { files, side, fit, damaged, warned: Mutex::new(BTreeSet::new()) }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads the given pictures, in their order, in the threads of the pool that it is called in; none for one that is
    /// damaged and to be skipped. The first few of these are named in warnings, in their order.
    ///
    /// # Errors
    /// A damaged picture, where that is not to be skipped.
    pub fn read(&self, pictures: &[usize]) -> Result<Vec<Option<Vec<u8>>>> {
        let file = |picture: &usize| self.files.get(*picture).context("a picture that is not in the list");
        let files: Vec<&PictureFile> = pictures.iter().map(file).collect::<Result<_>>()?;
        let read: Vec<Result<Vec<u8>>> = files.par_iter().map(|file| file.read(self.side, self.fit)).collect();
        let kept = pictures.iter().zip(read).map(|(picture, read)| match (read, self.damaged) {
            (Ok(rgb), _) => Ok(Some(rgb)),
            (Err(error), Damaged::Skip) => {
                self.warn(*picture, &error);
                Ok(None)
            }
            (Err(error), Damaged::Error) => {
                Err(error.context("repair or remove it, or set data.damaged=skip to go on without it"))
            }
        });
        kept.collect()
    }

    /// Digests of the given pictures, by which their features are kept; none for a file that cannot be read.
    pub fn digests(&self, pictures: &[usize]) -> Vec<Option<String>> {
        pictures.par_iter().map(|picture| self.files.get(*picture)?.digest(self.side, self.fit)).collect()
    }

    /// Width and height of the squares, in pixels.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Warns of a picture once.
    fn warn(&self, picture: usize, error: &anyhow::Error) {
        // A panic elsewhere has not damaged a set of numbers.
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !warned.insert(picture) {
            return;
        }
        if warned.len() <= NAMED {
            tracing::warn!("{}; its examples are left out", message_of(error));
        } else if warned.len() == NAMED + 1 {
            tracing::warn!("more pictures cannot be read, and their examples are left out without naming them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)));
        let mut bytes = Vec::new();
        picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn a_picture_of_the_right_size_keeps_its_bytes() {
        let bytes = png(8, 8, |x, y| [x as u8 * 30, y as u8 * 20, 7]);
        let rgb = decode_picture(&bytes, 8, Fit::Pad).unwrap();
        assert_eq!(rgb[..6], [0, 0, 7, 30, 0, 7]);
        assert_eq!(rgb, decode_picture(&bytes, 8, Fit::Crop).unwrap());
    }

    #[test]
    fn a_wide_picture_is_padded_above_and_below_with_clips_mean_colour() {
        let rgb = decode_picture(&png(8, 4, |_, _| [255, 0, 0]), 8, Fit::Pad).unwrap();
        let row = |y: usize| &rgb[y * 24..y * 24 + 3];
        assert_eq!(row(0), [122, 116, 104]);
        assert_eq!(row(1), [122, 116, 104]);
        assert_eq!(row(2), [255, 0, 0]);
        assert_eq!(row(7), [122, 116, 104]);
    }

    #[test]
    fn cropping_keeps_the_middle() {
        let rgb = decode_picture(&png(12, 4, |x, _| [x as u8, 0, 0]), 4, Fit::Crop).unwrap();
        assert_eq!(rgb[..12], [4, 0, 0, 5, 0, 0, 6, 0, 0, 7, 0, 0]);
    }

    #[test]
    fn a_picture_of_one_pixel_becomes_a_square_of_its_colour() {
        let rgb = decode_picture(&png(1, 1, |_, _| [1, 2, 3]), 4, Fit::Pad).unwrap();
        assert_eq!(rgb, [1, 2, 3].repeat(16));
    }

    #[test]
    fn bytes_that_are_no_picture_and_sizes_out_of_reach_are_refused() {
        assert!(decode_picture(b"no picture", 8, Fit::Pad).is_err());
        let mut huge = png(1, 1, |_, _| [0, 0, 0]);
        // The width in the header, and the checksum of the header that it belongs to.
        huge[16..20].copy_from_slice(&20_000_u32.to_be_bytes());
        huge[20..24].copy_from_slice(&20_000_u32.to_be_bytes());
        let error = decode_picture(&huge, 8, Fit::Pad).unwrap_err();
        assert!(format!("{error:#}").contains("at most 16384 pixels"), "{error:#}");
        let narrow = decode_picture(&png(9000, 1, |_, _| [0, 0, 0]), 336, Fit::Crop).unwrap_err();
        assert!(format!("{narrow:#}").contains("too long and narrow"), "{narrow:#}");
    }
}
