//! JPEGs of all structures in `tests/it/images`, compared with the pixels that libvips decodes. jpegtran wrote them from
//! the same coefficients, so that all of them show the same image.

use aside::image::{DecodeOptions, Fit, Format, Image};

const BASELINE: &[u8] = include_bytes!("images/baseline.jpg");
const LIBVIPS: &[u8] = include_bytes!("images/libvips.png");

const SAME: [(&str, &[u8]); 4] = [
    ("a scan for each component", include_bytes!("images/separate.jpg")),
    ("a scan for luma and one for the colors", include_bytes!("images/luma_first.jpg")),
    ("progressive", include_bytes!("images/progressive.jpg")),
    ("progressive with restart markers", include_bytes!("images/progressive_restarts.jpg")),
];

fn pixels(image: &Image, fit: Fit) -> Vec<u8> {
    let png = image.encode(fit, Format::Png).unwrap();
    image::load_from_memory(&png).unwrap().to_rgb8().into_raw()
}

/// Regression: a JPEG with a scan for each component and colors at half the resolution became a wrong image.
#[test]
fn a_jpeg_of_any_structure_has_the_pixels_that_libvips_decodes() {
    let expected = image::load_from_memory(LIBVIPS).unwrap().to_rgb8().into_raw();
    for (name, jpeg) in SAME.iter().chain(&[("baseline", BASELINE)]) {
        let decoded = pixels(&Image::decode(jpeg).unwrap(), Fit::Inside(70, 50));
        assert_eq!(decoded.len(), expected.len(), "{name}");
        let total: u64 = decoded.iter().zip(&expected).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
        let difference = total as f64 / expected.len() as f64;
        assert!(difference < 2.0, "{name}: a mean difference of {difference}");
    }
}

#[test]
fn a_jpeg_of_any_structure_is_decoded_at_a_reduced_size() {
    for fit in [Fit::Inside(35, 25), Fit::Inside(17, 12), Fit::Inside(8, 6)] {
        let decode = |jpeg| pixels(&DecodeOptions::new().largest_fit(fit).decode(jpeg).unwrap(), fit);
        let baseline = decode(BASELINE);
        for (name, jpeg) in SAME {
            assert!(decode(jpeg) == baseline, "{name}, {fit:?}");
        }
    }
}

/// Without its end marker, a JPEG that is cut inside its last scan would look almost right.
#[test]
fn a_truncated_jpeg_of_any_structure_is_refused() {
    for (name, jpeg) in SAME {
        assert!(Image::decode(&jpeg[..jpeg.len() - 2]).is_ok(), "{name}: only the end marker is missing");
        for length in (jpeg.len() - 40..jpeg.len() - 4).step_by(3) {
            let error = Image::decode(&jpeg[..length]).unwrap_err();
            assert_eq!(error.status_code().code(), 422, "{name}, {length} bytes");
        }
    }
}
