"""All that is known of MindSpore, and of CPU, GPU and Ascend."""
