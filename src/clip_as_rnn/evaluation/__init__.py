"""Every protocol of the paper: data sets, ways of counting, resumable runs, reports."""
