//! Writes a contact sheet of generated pictures, `<name>.png`, and their questions with answers, `<name>.txt`.
//!
//! ```text
//! cargo run -p hydra-shared --no-default-features --example contact_sheet -- <name> [split] [seed] [pictures]
//! ```

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;

use hydra_shared::tasks::{Picture, SamplesPerPicture, Split, TaskConfig, generate};

const COLUMNS: usize = 6;
/// Enlargement of a picture on the sheet.
const SCALE: usize = 3;
/// White pixels between pictures.
const MARGIN: usize = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("give a file name without extension")?;
    let split = arguments.next().unwrap_or_else(|| "test".into());
    let split = Split::by_name(&split).ok_or("no such split")?;
    let seed = arguments.next().map_or(Ok(0), |seed| seed.parse())?;
    let pictures = arguments.next().map_or(Ok(24), |pictures| pictures.parse())?;

    let samples_per_picture = SamplesPerPicture { caption: 1, boxed_caption: 1, ..SamplesPerPicture::default() };
    let set = generate(&TaskConfig { samples_per_picture, ..TaskConfig::default() }, split, seed, pictures)?;

    let mut text = String::new();
    for index in 0..pictures {
        writeln!(text, "picture {index} (row {}, column {})", index / COLUMNS + 1, index % COLUMNS + 1)?;
        for sample in set.samples.iter().filter(|sample| sample.picture == index) {
            writeln!(text, "  {:14} {} → {}", sample.kind.name(), sample.question, sample.answer)?;
        }
    }
    fs::write(format!("{name}.txt"), text)?;

    let sheet = contact_sheet(&set.pictures());
    let mut encoder =
        png::Encoder::new(BufWriter::new(File::create(format!("{name}.png"))?), sheet.width, sheet.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&sheet.rgb)?;
    Ok(())
}

/// All pictures in rows, enlarged; they have the same size.
fn contact_sheet(pictures: &[Picture]) -> Picture {
    let (width, height) = pictures.first().map_or((0, 0), |first| (first.width as usize, first.height as usize));
    let (step_x, step_y) = (width * SCALE + MARGIN, height * SCALE + MARGIN);
    let sheet_width = COLUMNS * step_x + MARGIN;
    let sheet_height = pictures.len().div_ceil(COLUMNS) * step_y + MARGIN;
    let mut rgb = vec![255; 3 * sheet_width * sheet_height];
    for (index, picture) in pictures.iter().enumerate() {
        let (left, top) = (MARGIN + index % COLUMNS * step_x, MARGIN + index / COLUMNS * step_y);
        for (number, pixel) in picture.rgb.chunks_exact(3).enumerate() {
            let (x, y) = (left + number % width * SCALE, top + number / width * SCALE);
            for row in y..y + SCALE {
                let start = 3 * (row * sheet_width + x);
                rgb[start..start + 3 * SCALE].copy_from_slice(&pixel.repeat(SCALE));
            }
        }
    }
    Picture { width: sheet_width as u32, height: sheet_height as u32, rgb }
}
