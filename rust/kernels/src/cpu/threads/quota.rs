//! How much processor time the cgroups above this process leave it, in cores (v2 `cpu.max`, v1 `cpu.cfs_quota_us`).
//! Knows nothing of pools.
use std::fs;
use std::path::Path;

use super::cgroup::{Group, cgroups};

/// Cores' worth of time; `None` where nothing limits it or the system does not tell.
pub fn cpu_quota() -> Option<f64> {
    least(&cgroups("cpu"))
}

fn least(groups: &[Group]) -> Option<f64> {
    let quotas = groups.iter().filter_map(|group| group_quota(&group.folder));
    quotas.reduce(f64::min)
}

/// Quota over period of one group's folder, in either version's files.
fn group_quota(at: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(at.join(name)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(both) => {
            let mut words = both.split_whitespace();
            let quota = words.next()?.to_owned();
            (quota, words.next().unwrap_or("100000").to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // "max" and -1 are no limit.
    let (quota, period) = (
        quota.trim().parse::<f64>().ok()?,
        period.trim().parse::<f64>().ok()?,
    );
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::cgroup::groups;
    use super::*;
    use std::path::PathBuf;

    fn quota(root: &Path, membership: &str) -> Option<f64> {
        least(&groups(root, membership, "cpu"))
    }

    /// A folder of the test's own with these files; removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("quota-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn version_2_takes_the_least_group_on_the_way_up() {
        let tree = Tree::new(
            "v2",
            &[
                ("cpu.max", "max 100000\n"),
                ("a/cpu.max", "150000 100000\n"),
                ("a/b/cpu.max", "800000 200000\n"),
                ("c/cpu.max", "max 100000\n"),
                ("d/cpu.max", "50000\n"),
            ],
        );
        assert_eq!(quota(&tree.0, "0::/a/b\n"), Some(1.5));
        assert_eq!(quota(&tree.0, "0::/c\n"), None);
        assert_eq!(quota(&tree.0, "0::/d\n"), Some(0.5));
        assert_eq!(quota(&tree.0, "0::/\n"), None);
    }

    #[test]
    fn version_1_has_two_files_and_several_names_of_its_folder() {
        let files = |folder: &str, quota: &'static str| {
            [
                (format!("{folder}/cpu.cfs_quota_us"), quota),
                (format!("{folder}/cpu.cfs_period_us"), "50000\n"),
            ]
        };
        let mut all = Vec::new();
        all.extend(files("cpu", "-1\n"));
        all.extend(files("cpu/job", "125000\n"));
        all.extend(files("cpu,cpuacct/job", "100000\n"));
        let all: Vec<(&str, &str)> = all.iter().map(|(p, t)| (p.as_str(), *t)).collect();
        let tree = Tree::new("v1", &all);
        assert_eq!(
            quota(&tree.0, "3:memory:/job\n1:cpu:/job\n0::/\n"),
            Some(2.5)
        );
        assert_eq!(quota(&tree.0, "2:cpu,cpuacct:/job\n"), Some(2.0));
        assert_eq!(quota(&tree.0, "1:cpu:/\n"), None);
        assert_eq!(quota(&tree.0, "1:cpuset:/job\n"), None);
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let tree = Tree::new("container", &[("cpu.max", "250000 100000\n")]);
        assert_eq!(quota(&tree.0, "0::/kubepods/pod1/abc\n"), Some(2.5));
        // Climbing out of the mounted folder is not done.
        assert_eq!(quota(&tree.0.join("missing"), "0::/../../x\n"), None);
    }

    #[test]
    fn what_is_no_number_is_no_limit() {
        let tree = Tree::new(
            "odd",
            &[
                ("a/cpu.max", ""),
                ("b/cpu.max", "many 100000"),
                ("c/cpu.max", "100000 0"),
                ("d/cpu.max", "0 100000"),
            ],
        );
        for group in ["a", "b", "c", "d", "e"] {
            assert_eq!(quota(&tree.0, &format!("0::/{group}")), None, "{group}");
        }
        assert_eq!(quota(&tree.0, "no line of a cgroup file"), None);
    }
}
