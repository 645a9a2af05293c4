"""What every experiment shares; imports none of the other rooms."""
