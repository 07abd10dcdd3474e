//! A colour for each approach, the same on every plot.
//!
//! After Okabe and Ito's colours, which people with the common kinds of colour blindness tell apart. Ours are four blues of
//! different lightness, what the kernel does is black and grey.

use plotters::style::RGBColor;

const KNOWN: &[(&str, RGBColor)] = &[
    ("direct", RGBColor(0x1a, 0x1a, 0x1a)),
    ("nftables", RGBColor(0x8a, 0x8a, 0x8a)),
    ("haproxy", RGBColor(0xd5, 0x5e, 0x00)),
    ("nginx", RGBColor(0x00, 0x9e, 0x73)),
    ("stunnel", RGBColor(0xcc, 0x79, 0xa7)),
    ("socat", RGBColor(0xe6, 0x9f, 0x00)),
    ("naive", RGBColor(0x7a, 0x4a, 0x12)),
    ("s2ds-af_xdp-poll", RGBColor(0x08, 0x30, 0x6b)),
    ("s2ds-af_xdp-adaptive", RGBColor(0x1f, 0x66, 0xb5)),
    ("s2ds-af_packet-poll", RGBColor(0x4b, 0x9c, 0xe2)),
    ("s2ds-af_packet-adaptive", RGBColor(0x8f, 0xc6, 0xf5)),
];

/// For names that are not known here: chosen by the name, so that they too are the same everywhere.
const OTHERS: &[RGBColor] = &[
    RGBColor(0x33, 0x22, 0x88),
    RGBColor(0x11, 0x77, 0x33),
    RGBColor(0x88, 0x22, 0x55),
    RGBColor(0x99, 0x99, 0x33),
    RGBColor(0x44, 0xaa, 0x99),
    RGBColor(0xaa, 0x44, 0x99),
];

/// The colour of an approach.
pub(crate) fn colour(approach: &str) -> RGBColor {
    if let Some((_, colour)) = KNOWN.iter().find(|(name, _)| *name == approach) {
        return *colour;
    }
    let sum = crc32fast::hash(approach.as_bytes()) as usize;
    OTHERS.get(sum % OTHERS.len()).copied().unwrap_or(RGBColor(0, 0, 0))
}

/// As CSS has it.
pub(crate) fn hex(approach: &str) -> String {
    let RGBColor(r, g, b) = colour(approach);
    format!("#{r:02x}{g:02x}{b:02x}")
}
