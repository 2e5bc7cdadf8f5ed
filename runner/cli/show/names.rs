//! Short names for tables: without the parts that all jobs have, and of many hookpoints the first and the last.

use std::collections::BTreeSet;

/// Hookpoints that are written out.
const MOST_WRITTEN_OUT: usize = 3;
/// Digits of a job's id that are shown if there is no space for all.
const SHORT_ID: usize = 6;

/// Names without the parts between commas that all of them have.
pub(crate) struct ShortNames {
    common: Vec<String>,
}

impl ShortNames {
    /// For all of `names`; one name is left as it is, and so are names that would be empty or not tell apart.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let has = |name: &&str, part: &str| name.split(',').any(|own| own == part);
        let first = names.first().copied().unwrap_or_default();
        let common = first
            .split(',')
            .filter(|part| names.iter().all(|name| has(name, part)));
        let short = Self {
            common: common.map(str::to_owned).collect(),
        };
        let shortened: BTreeSet<String> = names.iter().map(|name| short.shortened(name)).collect();
        let tell_apart = shortened.len() == names.len() && !shortened.contains("");
        if names.len() > 1 && tell_apart {
            short
        } else {
            Self { common: Vec::new() }
        }
    }

    /// A name as the table has it.
    pub(crate) fn shortened(&self, name: &str) -> String {
        let parts = name.split(',');
        let own = parts.filter(|part| !self.common.iter().any(|common| common == part));
        own.collect::<Vec<_>>().join(",")
    }

    /// A line that says what was left out; empty if nothing was.
    pub(crate) fn remark(&self) -> String {
        if self.common.is_empty() {
            return String::new();
        }
        format!("all jobs: {}\n", self.common.join(", "))
    }
}

/// The names of jobs in a table with one row per SAE and a column of hookpoints.
pub(crate) struct RowNames {
    names: ShortNames,
    /// Whether each name repeats the hookpoint of its row.
    repeat_hookpoint: bool,
}

impl RowNames {
    /// For rows of a job and an SAE each.
    pub(crate) fn of<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let names = ShortNames::of(rows.clone().map(|(job, _)| job));
        let repeats = |(job, sae): (&str, &str)| {
            let name = names.shortened(job);
            let part = hookpoints_part(sae);
            name != part && name.split(',').any(|own| own == part)
        };
        let repeat_hookpoint = rows.clone().next().is_some() && rows.clone().all(repeats);
        Self {
            names,
            repeat_hookpoint,
        }
    }

    /// The name of a job in the row of an SAE.
    pub(crate) fn of_row(&self, job: &str, sae: &str) -> String {
        let name = self.names.shortened(job);
        if !self.repeat_hookpoint {
            return name;
        }
        let part = hookpoints_part(sae);
        let parts = name.split(',').filter(|own| *own != part);
        parts.collect::<Vec<_>>().join(",")
    }

    /// Whether a row is only known by its hookpoint too.
    pub(crate) fn need_hookpoint(&self) -> bool {
        self.repeat_hookpoint
    }

    /// A line that says what was left out; empty if nothing was.
    pub(crate) fn remark(&self) -> String {
        let remark = self.names.remark();
        match (self.repeat_hookpoint, remark.trim_end()) {
            (false, _) => remark,
            (true, "") => "all jobs: hookpoints as in the column\n".to_owned(),
            (true, common) => format!("{common}, hookpoints as in the column\n"),
        }
    }
}

fn hookpoints_part(sae: &str) -> String {
    format!("hookpoints={sae}")
}

/// The beginning of a job's id, which is enough for `sae-run show`.
pub(crate) fn short_id(job_id: &str) -> String {
    job_id.chars().take(SHORT_ID).collect()
}

/// Hookpoints in one cell: `layers.0 … layers.30 (16)` if there are many.
pub(crate) fn hookpoints(names: &[&str]) -> String {
    match names {
        [first, .., last] if names.len() > MOST_WRITTEN_OUT => {
            format!("{first} … {last} ({})", names.len())
        }
        _ => names.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_names_have_is_left_out() {
        let names = [
            "k=16,lr=0.1,hookpoints=layers.1",
            "k=32,lr=0.1,hookpoints=layers.1",
        ];
        let short = ShortNames::of(names);
        assert_eq!(names.map(|name| short.shortened(name)), ["k=16", "k=32"]);
        assert_eq!(short.remark(), "all jobs: lr=0.1, hookpoints=layers.1\n");
        let untouched = |names: &[&str]| {
            let short = ShortNames::of(names.iter().copied());
            names.iter().all(|name| short.shortened(name) == *name) && short.remark().is_empty()
        };
        assert!(untouched(&["k=16"]));
        assert!(untouched(&["k=16", "k=16,lr=0.1"]), "one would be empty");
        assert!(untouched(&["a", "b"]));
        assert!(untouched(&[]));
    }

    #[test]
    fn a_hookpoint_that_is_in_the_row_is_left_out_of_the_name() {
        let rows = [
            ("k=4,lr=1,hookpoints=a", "a"),
            ("k=8,lr=1,hookpoints=a", "a"),
            ("k=4,lr=1,hookpoints=b", "b"),
        ];
        let names = RowNames::of(rows.iter().copied());
        assert_eq!(
            rows.map(|(job, sae)| names.of_row(job, sae)),
            ["k=4", "k=8", "k=4"]
        );
        assert_eq!(
            names.remark(),
            "all jobs: lr=1, hookpoints as in the column\n"
        );
        let both = [("k=4,hookpoints=a+b", "a"), ("k=8,hookpoints=a+b", "b")];
        let names = RowNames::of(both.iter().copied());
        assert_eq!(names.of_row(both[0].0, "a"), "k=4");
        assert_eq!(names.remark(), "all jobs: hookpoints=a+b\n");
    }

    #[test]
    fn of_many_hookpoints_the_ends_are_shown() {
        assert_eq!(hookpoints(&["a", "b", "c"]), "a b c");
        assert_eq!(hookpoints(&["a", "b", "c", "d"]), "a … d (4)");
    }
}
