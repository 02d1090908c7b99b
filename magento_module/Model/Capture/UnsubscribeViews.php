<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Capture;

use Magento\Framework\App\ResourceConnection;
use Magento\Framework\Mview\ViewInterface;

/**
 * Takes our statements out of the database's triggers; what others put there stays. Changelogs and their rows remain.
 */
class UnsubscribeViews
{
    /**
     * @param ListViews $listViews
     * @param FindTriggers $findTriggers
     * @param ResourceConnection $resource
     */
    public function __construct(
        private readonly ListViews $listViews,
        private readonly FindTriggers $findTriggers,
        private readonly ResourceConnection $resource
    ) {
    }

    /**
     * Unsubscribe all views and return what was done, a line each.
     *
     * With `$forget` Magento knows nothing of the views afterwards, as before the module was installed; without it they
     * are noted as switched off, and setup:upgrade leaves them so.
     *
     * @param bool $forget
     * @return string[]
     */
    public function execute(bool $forget = false): array
    {
        $done = [];
        $shared = [];
        // The last one first: a trigger on orders writes the customers' changelog, too, which must not be gone before it.
        foreach (array_reverse($this->listViews->execute(), true) as $id => $view) {
            if ($view->isEnabled()) {
                $view->unsubscribe();
                $done[] = "$id: unsubscribed";
                array_push($shared, ...array_column($view->getSubscriptions(), 'name'));
            }
            array_push($done, ...$this->takeOut($view));
            if ($forget && $view->getState()->getData('state_id')) {
                $view->getState()->delete();
            }
        }
        $this->restoreOthers($shared);
        return $done;
    }

    /**
     * Take the view out of triggers that still write its changelog though Magento believes it to be disabled.
     *
     * @param ViewInterface $view
     * @return string[]
     */
    private function takeOut(ViewInterface $view): array
    {
        $done = [];
        $changelog = $this->resource->getTableName($view->getChangelog()->getName());
        $tables = array_column($this->findTriggers->writing($changelog), 'table');
        foreach ($view->getSubscriptions() as $config) {
            if (in_array($this->resource->getTableName($config['name']), $tables, true)) {
                $view->initSubscriptionInstance($config)->remove();
                $done[] = "{$view->getId()}: taken out of what was left of its triggers on {$config['name']}";
            }
        }
        return $done;
    }

    /**
     * Make triggers anew that another view writes in its own manner (a subscription model): Magento's removal of ours
     * has just replaced its statement by the ordinary one.
     *
     * @param string[] $tables
     * @return void
     */
    private function restoreOthers(array $tables): void
    {
        foreach ($this->listViews->ofOthers($tables) as $view) {
            foreach ($view->getSubscriptions() as $config) {
                if (in_array($config['name'], $tables, true) && !empty($config['subscription_model'])) {
                    $view->initSubscriptionInstance($config)->create();
                }
            }
        }
    }
}
