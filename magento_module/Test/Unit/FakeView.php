<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Framework\DB\Ddl\Trigger;
use Magento\Framework\Mview\View\StateInterface;
use Magento\Framework\Mview\View\SubscriptionInterface;
use Magento\Framework\Mview\ViewInterface;

/**
 * A view on one table, its state, its changelog and its subscription in one; `$did` tells what was asked of it.
 */
class FakeView implements ViewInterface, StateInterface, SubscriptionInterface
{
    /**
     * @var string[]
     */
    public array $did = [];
    public bool $known = false;
    public ?\Closure $saving = null;

    public function __construct(
        private string $id,
        private string $table,
        public bool $enabled = false,
        private string $group = 'tocsin',
        private ?string $subscriptionModel = null,
        private string $prefix = 'shop_'
    ) {
        $this->known = $enabled;
    }

    public function load(string $viewId): self
    {
        $this->id = $viewId;
        return $this;
    }

    public function getId()
    {
        return $this->id;
    }

    public function getData($key = '', $index = null)
    {
        return $key === 'group' ? $this->group : ($this->known ? 1 : null);
    }

    public function getSubscriptions()
    {
        $config = ['name' => $this->table, 'column' => 'entity_id', 'subscription_model' => $this->subscriptionModel];
        return [$this->table => $config];
    }

    public function getState()
    {
        return $this;
    }

    public function getChangelog()
    {
        return $this;
    }

    public function getName()
    {
        return $this->id . '_cl';
    }

    public function isEnabled()
    {
        return $this->enabled;
    }

    public function getMode()
    {
        return $this->enabled ? self::MODE_ENABLED : self::MODE_DISABLED;
    }

    public function subscribe()
    {
        $this->did[] = 'subscribe';
        $this->enabled = $this->known = true;
        return $this;
    }

    public function unsubscribe()
    {
        $this->did[] = 'unsubscribe';
        $this->enabled = false;
        return $this;
    }

    public function delete()
    {
        $this->did[] = 'forget';
        $this->known = false;
    }

    public function initSubscriptionInstance(array $subscriptionConfig)
    {
        return $this;
    }

    public function create(bool $save = true)
    {
        if ($save) {
            $this->did[] = 'create';
        }
        return $this;
    }

    /**
     * @return Trigger[]
     */
    public function getTriggers()
    {
        return [new Trigger("trg_$this->table", ["INSERT IGNORE INTO `{$this->getName()}` (`entity_id`) VALUES (1);"], $this->prefix . $this->table)];
    }

    public function saveTrigger(Trigger $trigger): void
    {
        $this->did[] = 'save ' . $trigger->getName();
        $this->saving && ($this->saving)();
    }

    public function remove()
    {
        $this->did[] = 'remove';
        return $this;
    }
}
