//! Jars from Maven Central, kept between runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache_dir;
use super::process::run;

/// What to install.
pub const MISSING: &str = "the live tests need Java 17 (a JDK) and Maven: on Debian, apt-get install \
                           openjdk-17-jdk-headless maven";

/// The jars that `NAME-pom.xml` asks for, in one folder.
pub fn libraries(name: &str) -> PathBuf {
    run(Command::new("java").arg("-version"), MISSING);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/rig");
    let pom = root.join(format!("{name}-pom.xml"));
    let print = tagloom::user::layout::hash64(&std::fs::read(&pom).unwrap());
    let dir = cache_dir().join(format!("{name}-{print:016x}"));
    if dir.exists() {
        return dir;
    }
    let new = dir.with_extension("new");
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
    maven.arg(format!("-DoutputDirectory={}", new.display())).arg("-DincludeScope=runtime");
    run(&mut maven, MISSING);
    std::fs::rename(&new, &dir).unwrap();
    dir
}
