//! What the endings of a file's name tell about it.

use super::patterns::base_name;
use plan::Format;
use std::collections::BTreeMap;

const OURS: [(&str, Format); 10] = [
    ("json", Format::Json),
    ("jsonl", Format::Json),
    ("ndjson", Format::Json),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("txt", Format::Text),
    ("parquet", Format::Parquet),
    ("geoparquet", Format::Parquet),
    ("gpq", Format::Parquet),
    ("arrow", Format::Arrow),
];

/// Endings that `datasets` 5.2 has a reader for, and this crate has not.
const FOREIGN: &str = "conll conllu tar xml hdf5 h5 eval toml md lance tsfile vortex fa fasta fna \
    ffn faa frn afa gb gbk genbank fq fastq cif mmcif zip";

/// The same for molecules, pictures, sound, films, meshes and scans, which count in capitals too.
const MEDIA: &str = "pdb ent blp bmp dib bufr cur pcx dcx dds ps eps fit fits fli flc ftc ftu gbr \
    gif grib png apng jp2 j2k jpc jpf jpx j2c icns ico im iim tif tiff jfif jpe jpg jpeg msp pcd \
    pxr pbm pgm ppm pnm psd bw rgb rgba sgi ras tga icb vda vst webp wmf emf xbm xpm mpg aiff au \
    avr caf flac htk svx mat4 mat5 mpc2k ogg paf pvf raw rf64 sd2 sds ircam voc w64 wav nist \
    wavex wve xi mp3 opus 3gp 3g2 asf flv m4v webm f4v wmv wma ogm mxf nut mpeg avi mp4 mov mkv \
    glb gltf ply stl pdf nii";

/// Endings that `datasets` keeps as company of other files, and does not count.
const COMPANY: &str = "idx txn manifest";

/// What the names of packed files end in.
const PACKED: &str = "gz zst zstd bz2 xz";

/// The same for packings that are not read.
const PACKED_BY_OTHERS: &str = "lz4 zip 7z rar tar";

/// Names that count for the format of a data set only if there is nothing else.
const METADATA: [&str; 6] = [
    "instruction.md",
    "latest_version_hint.json",
    "metadata.csv",
    "metadata.jsonl",
    "metadata.parquet",
    "task.toml",
];

/// Which of two endings that are equally common wins: the later one, before all others.
const FAVOURITES: [&str; 7] = [
    "csv", "json", "jsonl", "arrow", "vortex", "lance", "parquet",
];

/// The format of a file that is a data set by itself: as if it were alone in a folder, except that
/// `.bin` is a format only for files that are named.
pub(crate) fn format_of_name(name: &str) -> Option<Format> {
    if endings(name).last() == Some("bin") {
        return Some(Format::Bin);
    }
    let is_read = is_data(name) && foreign_packing(name).is_none();
    let format = format_of_ending(&common_ending(is_read.then_some(name))?)?;
    allows_packing_of(format, name).then_some(format)
}

/// The format of files with an ending, which has no dot.
pub(crate) fn format_of_ending(ending: &str) -> Option<Format> {
    let found = OURS.iter().find(|(ours, _)| *ours == ending);
    found.map(|&(_, format)| format)
}

/// Whether files of this format are read when they are packed as `name` says.
pub(crate) fn allows_packing_of(format: Format, name: &str) -> bool {
    !is_packed(name) || !matches!(format, Format::Parquet | Format::Arrow | Format::Bin)
}

/// Whether `datasets` gives both formats to one reader.
pub(crate) fn share_reader(one: Format, other: Format) -> bool {
    let is_table = |format| matches!(format, Format::Csv | Format::Tsv);
    one == other || (is_table(one) && is_table(other))
}

/// Whether a file of this name is a data set by itself.
pub fn is_data_file_name(name: &str) -> bool {
    format_of_name(name).is_some()
}

/// Whether the end of `name` says that the file is packed in a way that is read.
pub(crate) fn is_packed(name: &str) -> bool {
    endings(name).last().is_some_and(|last| has(PACKED, last))
}

/// The end of `name` if it says that a program has packed the file whose output is not read.
pub(crate) fn foreign_packing(name: &str) -> Option<&str> {
    let last = endings(name).last();
    last.filter(|last| has(PACKED_BY_OTHERS, last))
}

/// All endings of a file's name, without dots: `train.jsonl.gz` has two.
pub(crate) fn endings(name: &str) -> impl Iterator<Item = &str> {
    base_name(name).split('.').skip(1)
}

/// Whether `datasets` takes a file of this name for data.
pub(crate) fn is_data(name: &str) -> bool {
    endings(name).any(|ending| counts(ending) || has(COMPANY, ending))
}

fn counts(ending: &str) -> bool {
    let small = ending.to_ascii_lowercase();
    let is_media = has(MEDIA, &small) && (ending == small || ending == small.to_ascii_uppercase());
    format_of_ending(ending).is_some() || has(FOREIGN, ending) || is_media
}

fn has(list: &str, ending: &str) -> bool {
    list.split_whitespace().any(|known| known == ending)
}

/// The ending that decides how a data set of the files `names` is read: the most common one, in
/// small letters. `None` if none is known.
pub(crate) fn common_ending<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut n_files: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for name in names {
        let is_metadata = METADATA.contains(&base_name(name));
        for ending in endings(name) {
            let key = (!is_metadata, ending.to_ascii_lowercase());
            *n_files.entry(key).or_default() += 1;
        }
    }
    let known = n_files
        .into_iter()
        .filter(|((_, ending), _)| counts(ending));
    let best = known.max_by_key(|((is_no_metadata, ending), n_files)| {
        let rank = FAVOURITES.iter().position(|favourite| favourite == ending);
        (*is_no_metadata, *n_files, rank, ending.clone())
    })?;
    Some(best.0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(names: &[&str]) -> Option<String> {
        common_ending(names.iter().copied())
    }

    #[test]
    fn formats_of_single_files() {
        for (name, format) in [
            ("a.b.jsonl", Format::Json),
            ("a.csv.gz", Format::Csv),
            ("/x/a.txt.zst", Format::Text),
            ("a.txt.zstd", Format::Text),
            ("a.jsonl.xz", Format::Json),
            ("a.bin", Format::Bin),
            ("a.parquet", Format::Parquet),
            // As for files of a folder, the favourite of several endings counts.
            ("a.jsonl.txt", Format::Json),
            ("a.txt.jsonl", Format::Json),
            ("a.csv.2024", Format::Csv),
            ("a.json.bak.gz", Format::Json),
        ] {
            assert_eq!(format_of_name(name), Some(format), "{name}");
        }
        for name in [
            "a",
            "a.gz",
            "a.parquet.gz",
            "a.bin.zst",
            "a.jsonl.lz4",
            "x.csv/a",
            "a.JSON",
        ] {
            assert_eq!(format_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_most_common_ending_wins() {
        assert_eq!(common(&["a.csv", "b.csv", "c.jsonl"]).unwrap(), "csv");
        assert_eq!(common(&["a.gz", "b.gz", "c.PNG"]).unwrap(), "png");
        assert_eq!(common(&["a.jsonl.gz", "b", "c.py"]).unwrap(), "jsonl");
        assert_eq!(common(&["LICENSE", "a.py"]), None);
    }

    #[test]
    fn favourites_win_a_draw() {
        assert_eq!(
            common(&["a.txt", "b.csv", "c.jsonl", "d.parquet"]).unwrap(),
            "parquet"
        );
        assert_eq!(
            common(&["a.txt", "b.csv", "c.json", "d.jsonl"]).unwrap(),
            "jsonl"
        );
        assert_eq!(common(&["a.txt", "b.csv"]).unwrap(), "csv");
        assert_eq!(common(&["a.txt", "b.tsv", "c.png"]).unwrap(), "txt");
    }

    #[test]
    fn metadata_counts_last() {
        let names = ["metadata.jsonl", "s/metadata.jsonl", "a.csv"];
        assert_eq!(common(&names).unwrap(), "csv");
        assert_eq!(common(&names[..2]).unwrap(), "jsonl");
    }

    #[test]
    fn data_is_known_by_any_ending() {
        for name in [
            "a.txt.00",
            "a.jsonl.bz2",
            "a.png",
            "a.PNG",
            "a.zip",
            "s/a.idx",
        ] {
            assert!(is_data(name), "{name}");
        }
        for name in ["a.JSONL", "a.Png", "x.csv/a", "csv", "a.py", ""] {
            assert!(!is_data(name), "{name}");
        }
    }
}
