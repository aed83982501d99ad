//! Where this process stands among the system's cgroups. Knows nothing of what they limit.
use std::fs;
use std::path::{Path, PathBuf};

/// One group's folder of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Where it is mounted.
    pub folder: PathBuf,
    /// Whether it is of version 1, whose files have other names.
    pub old: bool,
}

/// The groups of one controller that this process is in, its own before those above it; none where there are no cgroups.
pub fn cgroups(controller: &str) -> Vec<Group> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups(Path::new("/sys/fs/cgroup"), &membership, controller)
}

/// Up to the mounted root. `membership` is `/proc/self/cgroup`.
pub fn groups(root: &Path, membership: &str, controller: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let bases = match controllers {
            // Beside v1 hierarchies v2 is mounted one level below.
            "" => [root.to_path_buf(), root.join("unified")],
            c if c.split(',').any(|c| c == controller) => [root.join(c), root.join(controller)],
            _ => continue,
        };
        for base in bases {
            // Inside a container the path may name a place outside of it; then the mounted root is the container's own.
            let own = base.join(path.trim_start_matches('/'));
            let inside = own.ancestors().take_while(|at| at.starts_with(&base));
            found.extend(inside.map(|at| Group {
                folder: at.to_path_buf(),
                old: !controllers.is_empty(),
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(membership: &str, controller: &str) -> Vec<(String, bool)> {
        let found = groups(Path::new("/r"), membership, controller);
        let told = |g: Group| (g.folder.display().to_string(), g.old);
        found.into_iter().map(told).collect()
    }

    #[test]
    fn from_its_own_up_to_the_root_of_each_hierarchy() {
        let told = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
            names.iter().map(|(n, old)| ((*n).into(), *old)).collect()
        };
        let new = [
            ("/r/a/b", false),
            ("/r/a", false),
            ("/r", false),
            ("/r/unified/a/b", false),
            ("/r/unified/a", false),
            ("/r/unified", false),
        ];
        assert_eq!(folders("0::/a/b\n", "cpu"), told(&new));
        let old = [
            ("/r/cpu,cpuacct/x", true),
            ("/r/cpu,cpuacct", true),
            ("/r/cpu/x", true),
            ("/r/cpu", true),
        ];
        assert_eq!(
            folders("4:memory:/y\n3:cpu,cpuacct:/x\n", "cpu"),
            told(&old)
        );
        assert_eq!(folders("1:cpuset:/x\nnonsense\n", "cpu"), told(&[]));
    }
}
