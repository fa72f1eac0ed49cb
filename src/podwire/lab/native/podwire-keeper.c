/* The keeper: waits for the one child that it was left with, and ends as that child ended.
 *
 * A pid namespace is entered by children only, so every node and every agent has a parent that does nothing but
 * wait. Lab init forks it as a copy of itself, 5 MB; it becomes this page instead, 50 KB.
 */
#include <errno.h>
#include <sys/wait.h>

int main(void)
{
	int status;

	while (wait(&status) < 0)
		if (errno != EINTR)
			return 1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
