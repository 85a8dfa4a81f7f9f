//! Evaluation of rules: SQL, plan, kernels.
